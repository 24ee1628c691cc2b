"""Rule plan_region: what a region will cost, in JSON and on one page, before anything is asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.project import Done, Project

pytestmark = pytest.mark.workflow

ISLES = """
bbox: [179.97, -17.02, -179.97, -17.0]
grid: {zoom: 15}
shard_px: 512
classes: frankfurt
imagery:
  open: {kind: xyz, url: "https://tiles.example.org/{z}/{x}/{y}.png", rate_per_s: 2, tile_kb: 20}
  barred:
    kind: xyz
    url: "https://tiles.example.org/{z}/{x}/{y}.png"
    requires_terms: true
    terms: https://example.org/terms
  keyed: {kind: xyz, url: "https://tiles.example.org/{z}/{x}/{y}.png?key=${ISLES_KEY}"}
chips: {px: 64}
"""
KEY = "k3y-of-the-isles"


@pytest.fixture(scope="module")
def isles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Done]:
    """A copy of the project with a region across 180 degrees, planned; and what snakemake printed."""
    project = Project.of_sources(tmp_path_factory.mktemp("plan") / "project")
    project.path("config/regions/isles.yaml").write_text(ISLES)
    return project, project.snakemake("--cores", "1", "data/isles/plan.md", ISLES_KEY=KEY)


def read(project: Project) -> dict[str, Any]:
    return dict(json.loads(project.path("data/isles/plan.json").read_text()))


def test_the_plan_counts_tiles_hours_and_bytes(isles: tuple[Project, Done]) -> None:
    project, _ = isles
    plan = read(project)
    grid = json.loads(project.path("data/isles/grid.json").read_text())
    assert (plan["grid"]["width"], plan["grid"]["shards"]) == (grid["width"], len(grid["shards"]))
    assert grid["left"] < 20037508 < grid["left"] + grid["width"] * grid["res_x"]
    source = plan["imagery"]["open"]
    assert source["tiles"] == 6 * 3  # columns 32765 to 32767 and 0 to 2 (0.011 degrees each), three rows
    assert source["bytes"] == source["requests"] * 20_000 and source["hours"] == source["requests"] / 7200
    page = project.path("data/isles/plan.md").read_text()
    assert f"| open | xyz, zoom 15 | {source['tiles']} | {source['requests']} |" in page


def test_what_is_off_is_told_and_no_key_is_written(isles: tuple[Project, Done]) -> None:
    project, done = isles
    plan = read(project)
    assert {name: bool(source["off"]) for name, source in plan["imagery"].items()} == {
        "open": False,
        "barred": True,
        "keyed": False,
    }
    assert "warning: imagery 'barred' is off" in done.text and "https://example.org/terms" in done.text
    written = [path.read_text() for path in (project.folder / "data" / "isles").iterdir()]
    written += [path.read_text() for path in (project.folder / "logs").rglob("isles.log")]
    assert not any(KEY in text for text in [*written, done.text])


def test_accepting_the_terms_makes_the_plan_again_and_another_shard_size_too(isles: tuple[Project, Done]) -> None:
    project, _ = isles
    with project.edited(
        "config/regions/isles.yaml", lambda text: text.replace("terms: true", "terms: true\n    accept_terms: true")
    ):
        assert [job.rule for job in project.jobs("data/isles/plan.md")] == ["plan_region"]
    with project.edited("config/regions/isles.yaml", lambda text: text.replace("shard_px: 512", "shard_px: 1024")):
        assert {job.rule for job in project.jobs("data/isles/plan.md")} == {"define_grid", "plan_region"}
    assert "Nothing to be done" in project.snakemake("-n", "--cores", "1", "data/isles/plan.md").text
