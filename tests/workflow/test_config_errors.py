"""A mistake in a config ends in one line that names the value, the place and the way out, before any job starts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.project import Project

pytestmark = pytest.mark.workflow

STUDY = "config/studies/demo.yaml"
REGION = "config/regions/demo.yaml"
CLASSES = "config/classes/frankfurt.yaml"
TARGET = "results/studies/demo/report.html"
MAIN = "config/config.yaml"
BANNER = "Using workflow specific profile "  # snakemake says so at every start

# file, pattern, replacement, what the line must say
MISTAKES = {
    "wrong key": (STUDY, r"optimizer:", "optimiser:", [STUDY, "optimiser", "unknown key", "did you mean 'optimizer'?"]),
    "unknown model": (STUDY, r"- unet:", "- unett:", [STUDY, "no model 'unett'", "did you mean 'unet'?", "smp"]),
    "unknown loss": (STUDY, r"\[focal,", "[foca,", [STUDY, "no loss 'foca'", "did you mean 'focal'?", "jaccard"]),
    "unknown parameter": (
        STUDY,
        r"\[focal,",
        "[{focal: {gama: 2}},",
        [STUDY, "'focal'", "no parameter 'gama'", "did you mean 'gamma'?", "alpha"],
    ),
    "unknown architecture": (
        STUDY,
        r"arch: Unet,",
        "arch: Unett,",
        [STUDY, "no architecture 'Unett'", "did you mean 'Unet'?", "DeepLabV3Plus"],
    ),
    "unknown encoder": (STUDY, r"mobilenet_v2", "mobilenet_v9", [STUDY, "no encoder", "did you mean 'mobilenet_v2'?"]),
    "no runs": (STUDY, r"losses: .*", "losses: []", [STUDY, "losses", "empty", "at least one"]),
    "south above north": (
        REGION,
        r"bbox: \[(.*?), (.*?), (.*?), (.*?)\]",
        r"bbox: [\1, \4, \3, \2]",
        [REGION, "south 50.009504167", "north 49.991849727", "west, south, east, north"],
    ),
    "class index twice": (CLASSES, r"index: 1", "index: 0", [CLASSES, "index 0", "twice"]),
    "missing file": (
        REGION,
        r"demo: \{seed: 7\}\n",
        "",
        [REGION, "truth", "'data/demo/source/truth.tif' does not exist", "Snakefile"],
    ),
    "unknown land cover of a baseline": (
        STUDY,
        r"\[landcover,",
        "[{landcover: {source: corse}},",
        [STUDY, "landcover.source", "no land cover 'corse'", "did you mean 'coarse'?"],
    ),
    "losses that do not compare": (
        STUDY,
        r"select: val_mean_iou",
        "select: val_loss",
        [STUDY, "select", "val_loss", "focal, jaccard", "val_mean_iou"],
    ),
    "a date": (STUDY, r"arch: Unet", "foo: 2024-01-01", [STUDY, "'smp'", "foo", "2024-01-01"]),
    "control character": (STUDY, r"Demo study", "Demo \x07study", [STUDY, "line 2", r"character '\x07'", "YAML"]),
    "unknown study in the main config": (MAIN, r"\[demo\]", "[demmo]", ["demmo", "did you mean 'demo'?"]),
}


def results(project: Project) -> list[Path]:
    return [project.path(name) for name in ("data", "results", "work", "logs", "cache") if project.path(name).exists()]


def one_line(project: Project, *targets: str) -> str:
    done = project.snakemake("--cores", "1", *targets, status=1)
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith(BANNER)]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert results(project) == []
    return lines[0]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_names_value_place_and_choices(unbuilt: Project, mistake: str) -> None:
    name, pattern, replacement, words = MISTAKES[mistake]
    with unbuilt.edited(name, lambda text: re.sub(pattern, replacement, text, count=1)):
        line = one_line(unbuilt, *([TARGET] if name != MAIN else []))
    assert [word for word in words if word not in line] == [], line


def test_an_unknown_study_on_the_command_line_is_one_line_with_the_choices(unbuilt: Project) -> None:
    line = one_line(unbuilt, "results/studies/demmo/report.html")
    assert "config/studies/demmo.yaml does not exist" in line
    assert "did you mean 'demo'?" in line


def test_only_the_studies_asked_for_are_validated(unbuilt: Project) -> None:
    with unbuilt.added("config/studies/broken.yaml", "nonsense: true\n"):
        assert any(job.rule == "train" for job in unbuilt.jobs(TARGET))
        assert "broken.yaml: " in one_line(unbuilt, "results/studies/broken/report.html")


def test_a_broken_study_of_the_config_stops_nobody_who_asks_for_another(unbuilt: Project) -> None:
    text = unbuilt.path(STUDY).read_text()
    with unbuilt.added("config/studies/mine.yaml", text), unbuilt.edited(STUDY, lambda text: text + "bogus: 1\n"):
        for target in ("results/studies/mine/report.html", "data/demo/grid.json"):
            unbuilt.snakemake("-n", "--cores", "all", target)
        for targets in ([], ["all"], ["dataset"], [TARGET]):
            assert "bogus: unknown key" in one_line(unbuilt, *targets)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("data/demmo/grid.json", "config/regions/demmo.yaml does not exist; did you mean 'demo'?"),
        ("data/demo/imagery/sumer/r00c00.tif", "no imagery 'sumer'; did you mean 'summer'? choices: autumn, summer"),
        ("data/demo/landcover/old.tif", "no landcover 'old'; choices: coarse"),
        ("data/demo/splits/blocs.parquet", "no splits 'blocs'; did you mean 'blocks'?"),
        ("data/demo/labels/osmm/r00c00.tif", "config/recipes/osmm.yaml does not exist; did you mean 'osm'?"),
        ("data/demo/imagery/summer/r09c00_tiles.csv", "no shard 'r09c00'; it has 4, row by row from r00c00 to r01c01"),
        ("data/demo/chips/sumer/store.json", "config/recipes/sumer.yaml does not exist"),
    ],
)
def test_data_that_no_config_knows_is_one_line(unbuilt: Project, target: str, words: str) -> None:
    assert words in one_line(unbuilt, target)


@pytest.mark.parametrize("name", ["My-Study", "mine.v2"])
def test_a_study_whose_name_no_rule_takes_is_one_line(unbuilt: Project, name: str) -> None:
    with unbuilt.added(f"config/studies/{name}.yaml", unbuilt.path(STUDY).read_text()):
        line = one_line(unbuilt, f"results/studies/{name}/report.html")
    assert f"config/studies/{name}.yaml: {name!r} is no name: " in line and "rename the file" in line


def test_a_recipe_whose_chips_would_be_the_truth_is_one_line(unbuilt: Project) -> None:
    recipe = unbuilt.path("config/recipes/osm.yaml").read_text()
    with (
        unbuilt.added("config/recipes/truth.yaml", recipe),
        unbuilt.edited(STUDY, lambda text: text.replace("recipe: osm", "recipe: truth")),
    ):
        line = one_line(unbuilt, TARGET)
    assert [word for word in (STUDY, "data.recipe", "truth.yaml", "data/demo/chips/truth") if word not in line] == []
