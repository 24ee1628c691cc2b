# The Python that the rules share: which studies are asked for, what a run needs, which code a job executes.
# Config is validated here, while the Snakefile is parsed, and a mistake ends in one line.
import os
import re
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
os.environ["PATH"] = (
    f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
)
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")])
)
os.environ["PIPELINE_NO_BAR"] = "1"  # jobs share the terminal: lines alone

from pipeline import variants
from pipeline.config import (
    LandcoverLayer,
    check_comparison,
    check_recipe,
    load_classes,
    load_main,
    load_recipe,
    load_region,
)
from pipeline.errors import ConfigError, PipelineError, choices
from pipeline.files import canonical_json
from pipeline.plan import fitting_recipes
from pipeline.runs import expand_runs, find_run

VARIANT_RULES = [str(path) for path in (ROOT / "rules" / "variants").glob("*.smk")]


def stop(error):
    """End with one line instead of a traceback."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(1)


def asked_for(words):
    """Studies, data and runs that the targets among `words` name; no study, no data: those of config/config.yaml.

    Figures below results/figures/ need none. What is not asked for is not validated, so that a broken study stops
    nobody else's.
    """
    counts = ("--cores", "-c", "--jobs", "-j")  # `--cores all` is no target
    words = [word for before, word in zip(["", *words], words) if before not in counts]
    named = [re.match(r"(?:.*/)?results/studies/([^/]+)/", word) for word in words]
    studies = [match[1] for match in named if match]
    data = [word for word in words if word.startswith("data/")]
    whole = any(
        word in ("all", "dataset", "runs") or "results/runs/" in word for word in words
    )
    runs = [
        re.match(r"(?:.*/)?results/(?:runs|lr_range)/([^/]+)/", word) for word in words
    ]
    tested = [word for word in words if "results/lr_range/" in word]
    figures = [word for word in words if word.startswith("results/figures/")]
    if whole or not studies + data + figures + tested:
        studies += load_main().studies
    return list(dict.fromkeys(studies)), data, [match[1] for match in runs if match]


def check_data(target):
    """ConfigError when a target below data/ is of a region, source, recipe, pair, split or shard that is not there."""
    found = re.match(r"data/([^/]+)/(?:(\w+)/([^/.]+)(?:/(r\d+c\d+)[_.])?)?", target)
    name, part, item, shard = found.groups() if found else (None,) * 4
    if name is None:
        return
    region = load_region(name)
    known = {
        "imagery": region.imagery,
        "landcover": region.landcover,
        "splits": region.splits,
    }.get(part)
    if known is not None and item not in known:
        raise ConfigError(
            f"config/regions/{name}.yaml: no {part} {item!r}; {choices(item, known)}"
        )
    stores = {*region.imagery, *(f"landcover-{source}" for source in region.landcover)}
    stores |= {"truth"} if region.truth else set()
    if part == "labels":
        check_recipe(name, item)
    elif part == "comparisons":
        check_comparison(name, item)
    elif part == "chips" and item not in stores:
        load_recipe(item)
    if shard and shard not in region.shard_names():
        names = region.shard_names()
        raise ConfigError(
            f"{target}: the region has no shard {shard!r}; it has {len(names)}, row by row from {names[0]} to "
            f"{names[-1]}"
        )


def check_run(name, words):
    """ConfigError for a run that no study has, or a range test of one that has no learning rate."""
    found = find_run(name, STUDIES)
    if found.kind != "run" and any(
        f"results/lr_range/{name}/" in word for word in words
    ):
        raise ConfigError(
            f"results/lr_range/{name}: {found.name} is a {found.kind} and has no learning rate; name a network's run"
        )


try:
    STUDIES, DATA, RUNS = asked_for(sys.argv[1:])
    for name in STUDIES:
        expand_runs(name)
    for target in DATA:
        check_data(target)
    for name in RUNS:
        check_run(name, sys.argv[1:])
    ENGINE = "{}"
    if STUDIES or RUNS:
        ENGINE = canonical_json(load_main().engine.model_dump())
except PipelineError as error:
    stop(error)


wildcard_constraints:
    region=r"[a-z0-9_]+",
    provider=r"[a-z0-9_]+",
    source=r"[a-z0-9_]+",
    recipe=r"[a-z0-9_]+",
    shard=r"r\d+c\d+",
    store=r"[a-z0-9_]+(-[a-z0-9_]+)?",
    split=r"[a-z0-9_]+",
    study=r"[a-z0-9_]+",
    run=r"[a-z0-9_.\-]+-[0-9a-f]{10}",
    measured=r"[a-z0-9_.\-]+[.-][0-9a-f]{10}",
    hash=r"[0-9a-f]{10}",


def code(script, run=None):
    """The script and all of our own code that it executes, variants that the run's spec names included."""
    extra = [] if run is None else variants.files_of(spec_of(run))
    files = variants.closure(ROOT / "scripts" / f"{script}.py", extra)
    return [os.path.relpath(ROOT / path) for path in files]


def spec_of(run):
    """The resolved spec of a run id."""
    return find_run(run, STUDIES).spec


def spec_json(wildcards, run=None):
    """The spec as canonical JSON: a job's parameter, so that a changed setting is a changed job."""
    return canonical_json(spec_of(run or wildcards.run))


def run_threads(wildcards):
    """CPU threads of a run: part of what it is, never taken from --cores."""
    return spec_of(wildcards.run)["train"]["threads"]


def train_threads(wildcards):
    """CPU threads of a training: of all its processes."""
    return run_threads(wildcards) * run_devices(wildcards)


def run_devices(wildcards):
    """GPUs of a training, or its processes on the CPU."""
    return spec_of(wildcards.run)["train"]["devices"]


def study_digest(wildcards):
    """A short text that changes when anything of the study does."""
    study = expand_runs(wildcards.study)
    return canonical_json(
        {
            "config": study.config.model_dump(mode="json"),
            "runs": [run.id for run in study.runs],
        }
    )


def data_inputs(spec):
    """The stores and the split that a run reads; a baseline may have a land cover as its `source`."""
    data = spec["data"]
    source = spec["model"]["params"].get("source") if spec["kind"] != "run" else None
    return [
        store(data["region"], data["imagery"]),
        store(data["region"], data["recipe"]),
        f"data/{data['region']}/splits/{data['split']}.parquet",
        *([store(data["region"], f"landcover-{source}")] if source else []),
    ]


def run_data(wildcards):
    """The stores and the split of a run."""
    return data_inputs(spec_of(wildcards.run))


def baseline_data(name):
    """A function of wildcards: the data of the baseline `name`."""

    return lambda wildcards: data_inputs(spec_of(f"{name}.{wildcards.hash}"))


def baseline_spec(name):
    """A params function: the spec of the baseline `name`."""
    return lambda wildcards: canonical_json(spec_of(f"{name}.{wildcards.hash}"))


def baseline_code(name):
    """A function of wildcards: the code of the baseline `name`."""
    return lambda wildcards: code("predict_baseline", f"{name}.{wildcards.hash}")


def run_code(script):
    """A function of wildcards: the code that `script` executes for a run, its model and loss included."""
    return lambda wildcards: code(script, wildcards.run)


def run_outputs(run):
    """The files by which a table knows a run."""
    extra = ["metrics.json"] if run.kind == "run" else ["run.json"]
    return [f"results/runs/{run.id}/{name}" for name in ["confusion.parquet", *extra]]


def run_files(studies):
    """The result files of all runs of `studies`."""
    return [
        path
        for study in studies
        for run in expand_runs(study).runs
        for path in run_outputs(run)
    ]


def dataset_files(studies):
    """The chips and splits that `studies` read: those of all runs, and the truth."""
    files = [
        path
        for study in studies
        for run in expand_runs(study).runs
        for path in data_inputs(run.spec)
    ]
    return sorted({*files, *(path for study in studies for path in truth_of(study))})


def study_runs(wildcards):
    """The result files of a study's runs."""
    return run_files([wildcards.study])


def study_measures(wildcards):
    """The further scores of a study's runs, where it asks for any."""
    study = expand_runs(wildcards.study)
    names = [run.id for run in study.runs] if study.metrics else []
    return [f"results/studies/{wildcards.study}/measures/{name}.json" for name in names]


def study_blocks(wildcards):
    """The blocks of ground that intervals draw: the splits of a study's runs, and the chips that lie on them."""
    specs = [run.spec["data"] for run in expand_runs(wildcards.study).runs]
    splits = {f"data/{data['region']}/splits/{data['split']}.parquet" for data in specs}
    return sorted(splits | {store(data["region"], data["recipe"]) for data in specs})


def measure_digest(wildcards):
    """What a study's further scores of a run depend on: its metrics, and the score that picks the checkpoint."""
    study = expand_runs(wildcards.study)
    return canonical_json({"metrics": study.metrics, "select": study.config.select})


def measure_code(wildcards):
    """The code that computes a study's further metrics, those metrics included."""
    named = [
        variants.module_path("metrics", metric["name"])
        for metric in expand_runs(wildcards.study).metrics
    ]
    files = variants.closure(ROOT / "scripts" / "measure_run.py", named)
    return [os.path.relpath(ROOT / path) for path in files]


def truth_of(study):
    """The truth chips of a study's regions that have a truth."""
    regions = sorted({run.spec["data"]["region"] for run in expand_runs(study).runs})
    return [store(region, "truth") for region in regions if load_region(region).truth]


def study_truth(wildcards):
    """The truth chips of a study."""
    return truth_of(wildcards.study)


def study_checkpoints(wildcards):
    """The checkpoint folders of a study's networks."""
    return [
        f"results/runs/{run.id}/checkpoints"
        for run in expand_runs(wildcards.study).runs
        if run.kind == "run"
    ]


def study_imagery(wildcards):
    """Manifests of the imagery that a study's networks see."""
    runs = [run for run in expand_runs(wildcards.study).runs if run.kind == "run"]
    pairs = dict.fromkeys(
        (run.spec["data"]["region"], run.spec["data"]["imagery"]) for run in runs
    )
    return [
        f"data/{region}/imagery/{provider}/{shard}.json"
        for region, provider in pairs
        for shard in load_region(region).shard_names()
    ]
