"""Rule download_extract: extracts by url, on with a killed download, checked, and read by extract_osm as one map."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import osmium
import pyogrio
import pytest
from osmium.osm import mutable

from tests.support.project import Project, wait_until
from tests.support.ranges import RangeServer

pytestmark = pytest.mark.workflow

WRONG = "ab" * 16
CLASSES = "classes: [{index: 0, name: land, colour: [40, 160, 40]}, {index: 1, name: road, colour: [200, 60, 60]}]\n"
REGION = """
bbox: [8.0, 50.0, 8.01, 50.01]
grid: {{zoom: 14}}
classes: two
imagery:
  summer: {{kind: xyz, url: "https://tiles.example.org/{{z}}/{{x}}/{{y}}.png"}}
osm: {osm}
"""


def write_map(path: Path, ways: dict[int, float], nodes: int = 20_000) -> bytes:
    """Roads (id → latitude) from west to east across the region, and nodes that make the file big."""
    with osmium.SimpleWriter(str(path)) as writer:
        for number in range(1, nodes):
            place = (number * 7919 % 360 - 180, number * 104_729 % 170 - 85)
            writer.add_node(mutable.Node(id=number, version=1, location=place, tags={"ref": f"{number * 31}"}))
        for number, lat in ways.items():
            for end, lon in enumerate((8.0, 8.01)):
                writer.add_node(mutable.Node(id=100_000 + 2 * number + end, version=1, location=(lon, lat)))
        for number in ways:
            refs = [100_000 + 2 * number, 100_001 + 2 * number]
            writer.add_way(mutable.Way(id=number, version=1, nodes=refs, tags={"highway": "track"}))
    return path.read_bytes()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    folder = tmp_path_factory.mktemp("mirror")
    west = write_map(folder / "west.osm.pbf", {1: 50.002, 2: 50.004})
    east = write_map(folder / "east.osm.pbf", {2: 50.004, 3: 50.006})
    published = f"{hashlib.md5(west).hexdigest()}  west-latest.osm.pbf\n".encode()
    files = {"/west-latest.osm.pbf": west, "/west-latest.osm.pbf.md5": published, "/east.osm.pbf": east}
    with RangeServer(dict(files)).running() as running:
        yield running


@pytest.fixture(scope="module")
def coast(tmp_path_factory: pytest.TempPathFactory, server: RangeServer) -> Project:
    project = Project.of_sources(tmp_path_factory.mktemp("extracts") / "project")
    project.path("config/classes/two.yaml").write_text(CLASSES)
    west = f"{{url: {server.url('/west-latest.osm.pbf')}, checksum_url: {server.url('/west-latest.osm.pbf.md5')}}}"
    east = (
        f"{{url: {server.url('/east.osm.pbf')}, sha256: {hashlib.sha256(server.files['/east.osm.pbf']).hexdigest()}}}"
    )
    wrong = f"{{url: {server.url('/east.osm.pbf')}, md5: {WRONG}}}"
    for name, osm in (("coast", f"[{west}, {east}]"), ("damaged", wrong)):
        project.path(f"config/regions/{name}.yaml").write_text(REGION.format(osm=osm))
    return project


def test_a_killed_download_goes_on_and_both_extracts_are_read(coast: Project, server: RangeServer) -> None:
    path = coast.path("data/coast/osm/west-latest.osm.pbf")
    part, body = path.with_name(path.name + ".part"), server.files["/west-latest.osm.pbf"]
    assert isinstance(body, bytes)
    server.fault = lambda asked, _: "truncated" if asked.path.endswith(".pbf") else None
    script = [sys.executable, "scripts/download_extract.py", "--region", "coast", "--out", str(path)]
    with coast.started(*script, PYTHONPATH=str(coast.path("src"))):
        had = wait_until(lambda: part.exists() and part.stat().st_size, "a part of the extract")
    assert not path.exists() and 0 < had < len(body)
    server.fault, before = lambda asked, _: None, len(server.asked)
    coast.snakemake("--cores", "2", "data/coast/osm/layers.gpkg", timeout_s=120)
    asked = [one for one in server.asked[before:] if one.path == "/west-latest.osm.pbf"]
    assert [one.status for one in asked] == [206]
    assert (
        asked[0].sent == len(body) - int(asked[0].headers["range"].removeprefix("bytes=").partition("-")[0]) < len(body)
    )
    assert path.read_bytes() == body and not part.exists()
    frame = pyogrio.read_dataframe(coast.path("data/coast/osm/layers.gpkg"), layer="roads")
    assert frame["osm_id"].tolist() == [1, 2, 3]
    summary = json.loads(coast.path("data/coast/osm/summary.json").read_text())
    assert summary["sources"] == ["west-latest.osm.pbf", "east.osm.pbf"]


def test_edited_code_reads_the_extract_again_and_downloads_nothing(coast: Project, server: RangeServer) -> None:
    before = len(server.asked)
    with coast.edited("src/pipeline/acquire/osm_read.py", lambda text: text + "\n"):
        assert {job.rule for job in coast.jobs("data/coast/osm/layers.gpkg")} == {"extract_osm"}
    with coast.edited("src/pipeline/acquire/fetch.py", lambda text: text + "\n"):
        assert coast.jobs("data/coast/osm/layers.gpkg") == []
    assert len(server.asked) == before


def test_a_wrong_checksum_is_one_line_and_no_file(coast: Project) -> None:
    done = coast.snakemake("--cores", "1", "data/damaged/osm/east.osm.pbf", status=1, timeout_s=60)
    lines = [line for line in done.text.splitlines() if "md5" in line and "error" in line]
    assert len(lines) >= 1 and WRONG in lines[0] and "east.osm.pbf" in lines[0], done.text
    assert not coast.path("data/damaged/osm/east.osm.pbf").exists()


def test_two_extracts_of_one_name_are_refused(coast: Project, server: RangeServer) -> None:
    one = f"{{url: {server.url('/a/x.osm.pbf')}, md5: {WRONG}}}"
    other = one.replace("/a/", "/b/")
    with coast.added("config/regions/twins.yaml", REGION.format(osm=f"[{one}, {other}]")):
        done = coast.snakemake("-n", "data/twins/osm/layers.gpkg", status=1)
    assert "two extracts are called 'x.osm.pbf'" in done.stderr and done.stderr.count("error:") == 1
