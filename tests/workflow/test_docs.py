"""What the documents tell a reader to write and to type works, and what they name exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import osmium
import pyarrow.parquet as pq
import pytest
import rasterio
from osmium.osm.mutable import Node, Way
from pyproj import Geod, Transformer
from ruamel.yaml import YAML

from pipeline.config import load_study
from pipeline.errors import ConfigError
from pipeline.runs import expand_runs
from tests.support.project import FILE_BLOCK, ROOT, Project, jobs_of, write_blocks
from tests.support.tiny import write_region

DOCS = sorted(path for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
STUDY = "results/studies/swellendam/report.html"
SIDE_PX, PIXEL_M, UTM, LEFT, TOP = 768, 2.5, "EPSG:32734", 270_000.0, 6_230_000.0


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def commands(document: str) -> list[str]:
    """The snakemake commands of a document's shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", read(document), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(".venv/bin/snakemake") and "<" not in line]


def yaml(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def own_source(project: Project) -> dict[str, str]:
    """Make python, started before any rule runs, import this copy's package."""
    return {"PYTHONPATH": str(project.path("src"))}


# --- docs/your-region.md -----------------------------------------------------------------------------------------


def write_sources(folder: Path) -> dict[str, float]:
    """A GeoTIFF and an OSM extract where the page expects them; returns geodesic metres and square metres."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (3, SIDE_PX, SIDE_PX), dtype=np.uint8)
    profile = {"driver": "GTiff", "width": SIDE_PX, "height": SIDE_PX, "count": 3, "dtype": "uint8", "crs": UTM}
    transform = rasterio.Affine(PIXEL_M, 0, LEFT, 0, -PIXEL_M, TOP)
    with rasterio.open(folder / "aerial.tif", "w", transform=transform, **profile) as raster:
        raster.write(pixels)
    size = SIDE_PX * PIXEL_M
    to_lonlat = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True)

    def place(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [to_lonlat.transform(LEFT + x * size, TOP - y * size) for x, y in points]

    roads = [place([(-0.1, y), (1.1, y)]) for y in np.linspace(0.04, 0.94, 10)]
    ponds = [place([(x, y), (x + 0.06, y), (x + 0.06, y + 0.03), (x, y + 0.03), (x, y)]) for x, y in grid_of_ponds()]
    with osmium.SimpleWriter(str(folder / "area.osm.pbf")) as writer:
        ways: list[tuple[int, list[int], dict[str, str]]] = []
        node = 1
        kinds = [*((line, {"highway": "tertiary"}) for line in roads), *((r, {"natural": "water"}) for r in ponds)]
        for way, (line, tags) in enumerate(kinds, start=1):
            numbers = []
            for lon, lat in line[:-1] if line[0] == line[-1] else line:
                writer.add_node(Node(id=node, location=(lon, lat), version=1))
                numbers.append(node)
                node += 1
            ways.append((way, [*numbers, numbers[0]] if line[0] == line[-1] else numbers, tags))
        for way, numbers, tags in ways:
            writer.add_way(Way(id=way, nodes=numbers, tags=tags, version=1))
    geod = Geod(ellps="WGS84")
    inside = [place([(0, y), (1, y)]) for y in np.linspace(0.04, 0.94, 10)]
    return {
        "road_m": sum(geod.line_length(*zip(*line, strict=True)) for line in inside),
        "pond_m2": sum(abs(geod.polygon_area_perimeter(*zip(*ring, strict=True))[0]) for ring in ponds),
    }


def grid_of_ponds() -> list[tuple[float, float]]:
    return [(x, y) for y in np.linspace(0.06, 0.86, 9) for x in np.linspace(0.03, 0.88, 8)]


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict[str, float]]:
    project = Project.of_sources(tmp_path_factory.mktemp("newcomer") / "project")
    write_blocks(project, "docs/your-region.md")
    return project, write_sources(project.path("data/swellendam/source"))


@pytest.mark.workflow
def test_your_region_lists_its_jobs(newcomer: tuple[Project, dict[str, float]]) -> None:
    project, _ = newcomer
    dry = next(line for line in commands("docs/your-region.md") if " -n " in line)
    found = Counter(job.rule for job in project.jobs(*[word for word in shlex.split(dry)[1:] if word != "-n"]))
    once = "define_grid extract_osm download_imagery rasterize_labels split_region constant random_forest compare_runs"
    twice = "cut_chips train evaluate"
    assert found == Counter(f"{once} {twice} {twice} predict_region render_report".split())


@pytest.mark.workflow
def test_your_region_builds_the_data_that_the_page_shows(newcomer: tuple[Project, dict[str, float]]) -> None:
    project, truth = newcomer
    build = next(line for line in commands("docs/your-region.md") if "splits/blocks.parquet" in line)
    project.run(*shlex.split(build), timeout_s=120)
    shown = re.findall(r"^\| `(data/[\w./]+)` \|", read("docs/your-region.md"), re.MULTILINE)
    assert len(shown) == 4
    assert [name for name in shown if not project.path(name).is_file()] == []
    with rasterio.open(project.path(shown[1])) as raster:
        assert raster.crs.to_epsg() == 32734 and (raster.width, raster.height) == (SIDE_PX, SIDE_PX)
        labels = raster.read(1)
    # the pixels of a UTM grid are a little off their nominal size on the ground, and ponds cover no road here
    assert np.count_nonzero(labels == 1) * PIXEL_M**2 == pytest.approx(truth["road_m"] * 8, rel=0.05)
    assert np.count_nonzero(labels == 2) * PIXEL_M**2 == pytest.approx(truth["pond_m2"], rel=0.05)
    facts = json.loads(project.path("data/swellendam/splits/blocks.json").read_text())
    assert min(facts["chips"][split] for split in ("train", "val", "test")) > 0


@pytest.mark.workflow
@pytest.mark.slow
def test_your_region_ends_in_a_report(newcomer: tuple[Project, dict[str, float]]) -> None:
    project, _ = newcomer
    final = next(line for line in commands("docs/your-region.md") if "-n" not in line and STUDY in line)
    project.run(*shlex.split(final), timeout_s=600)
    assert project.path(STUDY).stat().st_size > 100_000
    assert len(project.path("results/studies/swellendam/table.csv").read_text().splitlines()) == 1 + 4


def test_messages_that_the_page_explains_are_messages_of_the_code() -> None:
    rows = re.findall(
        r"^\| `([^`]+)` \| ", read("docs/your-region.md").partition("## When something is wrong")[2], re.M
    )
    code = " ".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    assert len(rows) >= 8
    for message in rows:
        if message != "Directory cannot be locked":  # snakemake's own
            parts = [part.strip(" ':?") for part in message.split("…")]
            assert [part for part in parts if part and part not in code] == [], message


# --- docs/adding-a-variant.md ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def researcher(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project.of_sources(tmp_path_factory.mktemp("researcher") / "project")
    blocks = write_blocks(project, "docs/adding-a-variant.md")
    assert {Path(name).name for name in blocks} == {
        "log_cosh_dice.py",
        "dilated.py",
        "lowest_iou.py",
        "step_decay.py",
        "mixed_chips.py",
        "band_dropout.py",
        "nearest_colour.smk",
        "nearest_colour.py",
        "mine.yaml",
    }
    return project


@pytest.mark.workflow
def test_new_variants_join_a_study_and_only_their_runs_depend_on_them(researcher: Project) -> None:
    dry = ("--quiet", "host", "-n", "--cores", "2", "results/studies/mine/report.html")
    done = researcher.snakemake(*dry, **own_source(researcher))
    jobs = jobs_of(done.text)
    trainings = {job.wildcards["run"]: set(job.inputs) for job in jobs if job.rule == "train"}
    assert Counter(job.rule for job in jobs if job.rule in ("nearest_colour", "landcover", "train", "evaluate")) == {
        "nearest_colour": 1,
        "landcover": 1,
        "train": 4,
        "evaluate": 4,
    }
    for run, inputs in trainings.items():
        assert ("src/pipeline/losses/log_cosh_dice.py" in inputs) == ("-log_cosh_dice-" in run)
        assert ("src/pipeline/models/dilated.py" in inputs) == ("-dilated-" in run)
        assert "src/pipeline/metrics/lowest_iou.py" not in inputs
        assert {"src/pipeline/schedules/step_decay.py", "src/pipeline/augment/band_dropout.py"} <= inputs
        assert "src/pipeline/samplers/mixed_chips.py" in inputs and "src/pipeline/samplers/uniform.py" not in inputs


@pytest.mark.workflow
def test_new_variants_keep_the_contracts_and_pass_the_linters(researcher: Project) -> None:
    new = {
        "losses": "log_cosh_dice",
        "models": "dilated",
        "metrics": "lowest_iou",
        "schedules": "step_decay",
        "samplers": "mixed_chips",
        "augment": "band_dropout",
    }
    contracts = [f"tests/unit/{family}/test_{family}_contract.py" for family in new]
    python = str(Path(sys.executable))
    done = researcher.run(
        *(python, "-m", "pytest", *contracts, "-k", " or ".join(new.values()), "-q", "-rA"), **own_source(researcher)
    )
    for family, name in new.items():  # a contract of schedules has four cases for each, the others more
        assert done.text.count(f"[{name}") >= (4 if family == "schedules" else 8), (name, done.text)
    files = [*(f"src/pipeline/{family}/{name}.py" for family, name in new.items()), "scripts/nearest_colour.py"]
    researcher.run(python, "-m", "ruff", "check", *files)
    researcher.run(python, "-m", "ruff", "format", "--check", *files)
    researcher.run(python, "-m", "snakefmt", "--check", "rules/variants/nearest_colour.smk")


@pytest.mark.workflow
def test_the_examples_are_their_equations(researcher: Project) -> None:
    code = """
import json, numpy as np, torch
from pipeline import losses, metrics, models
torch.manual_seed(0)
logits, target = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.randint(0, 3, (2, 8, 8))
target[0, :2] = 255
value = float(losses.create("log_cosh_dice", smooth=0.5)(logits, target))
weighted = float(losses.create("log_cosh_dice", smooth=0.5, class_weights=[1, 0, 3])(logits, target))
shape = list(models.create("dilated", in_channels=4, classes=3, width=5)(torch.zeros(1, 4, 20, 31)).shape)
counts = np.array([[5, 1, 0], [2, 2, 0], [0, 1, 0]])
lowest = [metrics.create("lowest_iou", min_pixels=n)(counts, ["a", "b", "c"])["lowest_iou"] for n in (1, 2, 7)]
print(json.dumps([value, weighted, shape, lowest[:2], str(lowest[2]), logits.tolist(), target.tolist()]))
"""
    done = researcher.run(sys.executable, "-c", code, **own_source(researcher))
    value, weighted, shape, lowest, last, logits, target = json.loads(done.stdout)
    scores, truth = np.array(logits), np.array(target)
    odds = np.exp(scores)
    p = np.moveaxis(odds / odds.sum(axis=1, keepdims=True), 1, -1)[truth != 255]
    y = np.eye(3)[truth[truth != 255]]
    dice = (2 * (p * y).sum(0) + 0.5) / (p.sum(0) + y.sum(0) + 0.5)
    assert value == pytest.approx(np.log(np.cosh(1 - dice.mean())), rel=1e-9)
    assert weighted == pytest.approx(np.log(np.cosh(1 - (dice[0] + 3 * dice[2]) / 4)), rel=1e-9)
    assert shape == [1, 3, 20, 31]
    assert lowest == pytest.approx([0, 2 / 6]) and last == "nan"


@pytest.mark.workflow
def test_the_rule_of_ones_own_predicts_the_nearest_colour(researcher: Project, tmp_path: Path) -> None:
    data = write_region(tmp_path / "data")
    spec = {
        "version": 1,
        "kind": "rule",
        "data": {"region": "tiny", "imagery": "rgb", "recipe": "osm", "split": "columns"},
        "model": {"name": "nearest_colour", "params": {}},
        "seed": 0,
    }
    out, log = tmp_path / "out", tmp_path / "log"
    options = ["--run", "nearest_colour.0123456789", "--spec", json.dumps(spec), "--data", data, "--out", out, "--log"]
    script = researcher.path("scripts/nearest_colour.py")
    researcher.run(sys.executable, str(script), *map(str, options), str(log), **own_source(researcher))
    images = np.load(data / "tiny/chips/rgb/chips.npy").astype(float)
    labels = np.load(data / "tiny/chips/osm/chips.npy")[:, 0]
    ids = pq.read_table(data / "tiny/chips/rgb/index.parquet").column("chip_id").to_pylist()
    column = np.array([int(chip[8:14]) // images.shape[-1] for chip in ids])
    train = ~np.isin(column, (5, 7))
    means = [images[train].transpose(0, 2, 3, 1)[labels[train] == k].mean(axis=0) for k in (0, 1)]
    test = {chip: row for row, chip in enumerate(ids) if column[row] == 7}
    predicted = np.load(out / "predictions/test.npy")
    names = json.loads((out / "predictions/chips.json").read_text())
    assert sorted(names) == sorted(test)
    for name, chip in zip(names, predicted, strict=True):
        pixels = images[test[name]].transpose(1, 2, 0)
        expected = np.argmin([np.linalg.norm(pixels - mean, axis=-1) for mean in means], axis=0)
        assert (chip != expected).mean() < 1e-3  # ties in float32
    counted = pq.read_table(out / "confusion.parquet").to_pandas()
    right = counted[(counted.split == "test") & (counted.truth == counted.predicted)].pixels.sum()
    rows = [test[name] for name in names]
    assert right == (predicted == labels[rows]).sum()
    assert json.loads((out / "run.json").read_text())["kind"] == "rule"


@pytest.mark.workflow
def test_the_other_snippets_of_studies_are_valid(researcher: Project) -> None:
    snippets = re.findall(r"^```yaml\n(.*?)^```$", read("docs/adding-a-variant.md"), re.MULTILINE | re.DOTALL)
    parts = [part for text in snippets if "data" not in (part := yaml(text))]
    assert len(parts) == 4
    base = yaml(researcher.path("config/studies/mine.yaml").read_text())
    for number, part in enumerate(parts):
        content = {**base, **part, "baselines": []}
        name = f"snippet_{number}"
        with researcher.added(f"config/studies/{name}.yaml", json.dumps(content)):
            assert len(researcher.runs(name)) == len(content["models"]) * len(content["losses"])


# --- README.md ---------------------------------------------------------------------------------------------------


@pytest.fixture
def config_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "config", tmp_path / "config")
    shutil.copytree(ROOT / "rules", tmp_path / "rules")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "config"


def change(path: Path, pattern: str, replacement: str) -> None:
    text = path.read_text()
    changed = re.sub(pattern, replacement, text, count=1)
    assert changed != text
    path.write_text(changed)


def test_errors_shown_in_the_readme_are_what_the_code_says(config_copy: Path) -> None:
    shown = re.findall(r"^error: (.*)$", read("README.md"), re.MULTILINE)
    edits = [
        ("studies", r"jaccard\]", "jacard]"),
        ("studies", r"batch_size", "batchsize"),
        ("regions", r"bbox: \[([\d.]+), ([\d.]+), ([\d.]+), ([\d.]+)\]", r"bbox: [\1, 50.02, \3, 49.99]"),
    ]
    assert len(shown) == len(edits)
    for number, (line, (folder, pattern, replacement)) in enumerate(zip(shown, edits, strict=True)):
        root = Path(f"config{number}")
        shutil.copytree(config_copy, root)
        change(root / folder / "demo.yaml", pattern, replacement)
        with pytest.raises(ConfigError) as caught:
            expand_runs("demo", root)
        said = str(caught.value).replace(f"{root}/", "config/")
        assert said.startswith(line.removesuffix("…")) and (line.endswith("…") or said == line)


@pytest.mark.workflow
def test_the_jobs_that_the_readme_shows_are_shown_with_inputs(researcher: Project) -> None:
    command = re.search(r"`\.venv/bin/snakemake ([^`]*--quiet host[^`]*)`", read("README.md"))
    assert command is not None
    done = researcher.snakemake(*shlex.split(command[1]), **own_source(researcher))
    assert any(job.rule == "train" and job.inputs for job in jobs_of(done.text))


def test_the_study_of_the_readme_is_the_demo_shortened(config_copy: Path) -> None:
    block = re.search(r"^```yaml\n# config/studies/demo.yaml, shortened\n(.*?)^```$", read("README.md"), re.M | re.S)
    assert block is not None
    (config_copy / "studies" / "readme.yaml").write_text(block[1])
    readme, demo = load_study("readme"), load_study("demo")
    for part in ("data", "losses", "train", "seeds", "baselines", "select"):
        assert getattr(readme, part) == getattr(demo, part)
    assert [list(entry) for entry in readme.models] == [list(entry) for entry in demo.models]
    assert len([run for run in expand_runs("readme").runs if run.kind == "run"]) == 4


def test_the_readme_lists_every_rule() -> None:
    rules = re.findall(r"^rule (\w+):", "".join(path.read_text() for path in (ROOT / "rules").rglob("*.smk")), re.M)
    stages = read("README.md").partition("## The stages")[2].partition("\n## ")[0]
    listed = [name for row in re.findall(r"^\| (`.*?) \|", stages, re.M) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(rules)


def test_commands_of_make_that_the_documents_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    named = {
        name
        for path in DOCS
        for line in path.read_text().splitlines()
        if "*Planned" not in line
        for name in re.findall(r"(?:^|`)make ([a-z-]+)", line)
    }
    assert named and named <= targets


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_links_and_files_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text()
    links = [target for target in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in target]
    assert [target for target in links if not (document.parent / target).exists()] == []
    own = {name for path in DOCS for name in dict(FILE_BLOCK.findall(path.read_text()))}
    top = ("config", "docs", "envs", "rules", "scripts", "src", "tests", "tools", "benchmarks", "profiles")
    named = re.findall(rf"`((?:{'|'.join(top)})/[\w./-]+)`", text)
    assert [name for name in named if name not in own and not (ROOT / name).exists()] == []


def test_pictures_are_small_and_shown() -> None:
    pictures = sorted((ROOT / "docs" / "images").iterdir())
    shown = " ".join(path.read_text() for path in DOCS)
    for picture in pictures:
        assert picture.stat().st_size < 200_000, picture
        assert picture.name in shown, picture


def test_the_results_of_the_readme_are_remade_from_a_table() -> None:
    """The block between the markers is what the tool writes: replacing it keeps all the rest."""
    code = """
import pandas as pd, readme_results as tool
text = open("README.md", encoding="utf-8").read()
rows = [
    {"run": "demo-a", "kind": "run", "model.name": "unet", "loss.name": "focal", "parameters": 1234.0,
     "test_mean_iou": 0.75651, "test_accuracy": 0.5, "truth_mean_iou": 1.0},
    {"run": "landcover.01", "kind": "baseline", "test_mean_iou": 0.9, "test_accuracy": 0.1, "truth_mean_iou": 0.2},
]
print(tool.replace_block(text, tool.markdown(pd.DataFrame(rows))), end="")
"""
    environment = os.environ | {"PYTHONPATH": "tools"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    begin, end = "<!-- begin: made by tools/readme_results.py -->\n", "<!-- end -->"
    before, after = read("README.md"), done.stdout
    assert after.partition(begin)[0] == before.partition(begin)[0]
    assert after.partition(end)[2] == before.partition(end)[2]
    lines = after.partition(begin)[2].partition(end)[0].splitlines()
    assert lines[2] == "| `unet` | `focal` | 1,234 | 0.757 | 0.500 | 1.000 |"
    assert lines[3] == "| `landcover` (baseline) | – | – | 0.900 | 0.100 | 0.200 |"
    assert len(lines) == 4
