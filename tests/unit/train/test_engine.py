"""Training: it learns, it is a function of its spec, it survives SIGKILL to the last digit, it says what is wrong."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from pipeline import models
from pipeline.errors import RunError
from pipeline.evaluate.network import evaluate
from pipeline.files import read_json
from pipeline.train.engine import train
from pipeline.train.provenance import run_code_hash
from tests.support.tiny import a_spec, write_region

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "train.py"


def run_training(region: Path, folder: Path, spec: dict[str, Any], code: str = "code") -> list[str]:
    lines: list[str] = []
    train("tiny-run", spec, code, data=region, out=folder / "out", work=folder / "work", log=lines.append)
    return lines


def history(folder: Path) -> list[dict[str, str]]:
    with open(folder / "out" / "history.csv") as handle:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


def weights(folder: Path) -> dict[str, Any]:
    return {
        f"{path.stem}/{name}": tensor
        for path in sorted((folder / "out" / "checkpoints").glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and len(a) > 0 and all(np.array_equal(a[key], b[key]) for key in a)


def start(region: Path, folder: Path, spec: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), "--run", "tiny-run", "--spec", json.dumps(spec), "--data", str(region)]
    command += ["--out", str(folder / "out"), "--work", str(folder / "work")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for_line(process: subprocess.Popen[str], words: str) -> list[str]:
    lines = []
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError(f"{words!r} never came:\n" + "".join(lines))


def test_it_learns_and_writes_what_the_table_needs(region: Path, tmp_path: Path) -> None:
    lines = run_training(region, tmp_path, a_spec(epochs=12))
    metrics = evaluate(tmp_path / "out", region, tmp_path / "work", lines.append)
    assert max(entry["test"]["mean_iou"] for entry in metrics["checkpoints"].values()) > 0.9
    facts = read_json(tmp_path / "out" / "run.json")
    assert set(facts["hashes"]) == {"images", "labels", "split", "code"}
    assert facts["finished"] and facts["parameters"] > 1000 and facts["chips"] == {"train": 48, "val": 8, "test": 8}
    assert not (tmp_path / "work").exists()
    predictions = np.load(tmp_path / "out" / "predictions" / "test-best_accuracy.npy")
    assert predictions.shape == (8, 32, 32) and predictions.dtype == np.uint8
    assert len(read_json(tmp_path / "out" / "predictions" / "chips.json")) == 8


def test_the_kept_checkpoints_are_those_of_the_best_epochs(region: Path, tmp_path: Path) -> None:
    run_training(region, tmp_path, a_spec(epochs=6))
    metrics = evaluate(tmp_path / "out", region, tmp_path / "work", lambda _: None)["checkpoints"]
    rows = history(tmp_path)
    for name, column, score in (
        ("best_accuracy", "val_accuracy", "accuracy"),
        ("best_jaccard", "val_jaccard_coefficient", "jaccard_coefficient"),
    ):
        values = [float(row[column]) for row in rows]
        assert metrics[name]["epoch"] == int(np.argmax(values)) + 1
        assert metrics[name]["val"][score] == pytest.approx(max(values), abs=1e-9)


def test_the_same_spec_gives_the_same_weights_and_another_seed_others(region: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_training(region, tmp_path / name, a_spec(epochs=2))
    run_training(region, tmp_path / "c", a_spec(epochs=2) | {"seed": 4})
    assert history(tmp_path / "a") == history(tmp_path / "b")
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(region: Path, tmp_path: Path) -> None:
    spec = a_spec(epochs=6)
    run_training(region, tmp_path / "whole", spec)
    for epoch in (1, 3):
        process = start(region, tmp_path / "killed", spec)
        wait_for_line(process, f"epoch {epoch}/6")
        time.sleep(0.05 * epoch)  # somewhere within the next epoch
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = start(region, tmp_path / "killed", spec)
    lines = wait_for_line(process, "best")
    assert process.wait() == 0
    assert any("resumed after epoch" in line for line in lines)
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    assert same_weights(tmp_path / "killed", tmp_path / "whole")


def test_a_finished_training_whose_results_were_deleted_is_published_again_not_repeated(
    region: Path, tmp_path: Path
) -> None:
    """What snakemake does to the outputs of a training that outlived it."""
    spec = a_spec(epochs=2)
    run_training(region, tmp_path, spec)
    before = weights(tmp_path), history(tmp_path)
    shutil.rmtree(tmp_path / "out")
    lines = run_training(region, tmp_path, spec)
    assert not any(line.startswith("epoch") for line in lines)
    after = weights(tmp_path), history(tmp_path)
    assert after[1] == before[1] and all(np.array_equal(after[0][key], before[0][key]) for key in before[0])


def test_state_of_another_code_or_data_is_discarded(region: Path, tmp_path: Path) -> None:
    spec = a_spec(epochs=5)
    process = start(region, tmp_path / "run", spec)
    wait_for_line(process, "epoch 2/5")
    process.kill()
    process.wait()
    lines = run_training(region, tmp_path / "run", spec, code="edited")
    assert sum("of another spec, data or code" in line for line in lines) == 1
    assert any(line.startswith("epoch 1/5") for line in lines)


def test_one_value_per_channel_is_a_line_about_the_batch(region: Path, tmp_path: Path) -> None:
    model = {"name": "smp", "params": {"arch": "DeepLabV3Plus", "encoder": "resnet18", "weights": None}}
    with pytest.raises(RunError, match="at batch_size 1 with these chips"):
        run_training(region, tmp_path, a_spec(epochs=1, batch_size=1) | {"model": model})


def test_a_damaged_state_is_discarded_in_one_line(region: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "state.pt").write_bytes(b"not a state")
    lines = run_training(region, tmp_path, a_spec(epochs=1))
    assert sum("is damaged" in line for line in lines) == 1


HOLDER = """
import shutil, sys
from pathlib import Path
from pipeline.train.lock import run_lock
finished, out, work = map(Path, sys.argv[1:])
with run_lock(work, print):
    print("locked", flush=True)
    sys.stdin.readline()
    if finished.is_dir():
        shutil.copytree(finished, out)
    shutil.rmtree(work)
"""


def hold_lock(folder: Path, finished: Path) -> subprocess.Popen[str]:
    """A process that holds the run's lock until it is told to go on, then publishes the results in `finished`."""
    command = [sys.executable, "-c", HOLDER, str(finished), str(folder / "out"), str(folder / "work")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
    return holder


def test_a_second_process_waits_for_the_first_and_adopts_its_result(region: Path, tmp_path: Path) -> None:
    spec = a_spec(epochs=2)
    run_training(region, tmp_path / "whole", spec)
    holder = hold_lock(tmp_path / "run", tmp_path / "whole" / "out")
    threading.Timer(1.0, lambda: holder.communicate("go on\n")).start()
    lines = run_training(region, tmp_path / "run", spec)
    assert lines[0].startswith(f"process {holder.pid} is still working on work: waiting for it")
    assert lines[-1] == "finished by the process that was waited for"
    assert len(lines) == 2


def test_a_second_process_takes_over_when_the_first_is_killed(region: Path, tmp_path: Path) -> None:
    spec = a_spec(epochs=4)
    run_training(region, tmp_path / "whole", spec)
    process = start(region, tmp_path / "run", spec)
    wait_for_line(process, "epoch 2/4")
    process.kill()
    process.wait()
    code = run_code_hash(SCRIPT, spec)  # as the script has it
    holder = hold_lock(tmp_path / "run", tmp_path / "nothing")
    threading.Timer(1.0, holder.kill).start()
    lines = run_training(region, tmp_path / "run", spec, code=code)
    assert f"process {holder.pid} is still working" in lines[0]
    assert lines[1].startswith("resumed after epoch")
    assert same_weights(tmp_path / "run", tmp_path / "whole")


def test_early_stop_counts_epochs_without_a_better_validation_loss(region: Path, tmp_path: Path) -> None:
    run_training(region, tmp_path, a_spec(epochs=60, patience=3, lr=0.05))
    losses = [float(row["val_loss"]) for row in history(tmp_path)]
    best = int(np.argmin(losses))
    assert len(losses) < 60
    assert len(losses) == best + 1 + 3


def test_a_loss_that_is_not_finite_names_epoch_batch_and_chips(region: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the loss is (nan|inf) at epoch \d+, batch \d+ \(chips r\d+c\d+p32"):
        run_training(region, tmp_path, a_spec(optimizer="sgd", lr=1e30, epochs=3))


def test_pixels_without_imagery_are_not_scored(tmp_path: Path) -> None:
    data = write_region(tmp_path / "data", invalid=True)
    run_training(data, tmp_path, a_spec(epochs=1))
    evaluate(tmp_path / "out", data, tmp_path / "work", lambda _: None)
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "out" / "confusion.parquet").to_pandas()
    per_chip = table.groupby(["checkpoint", "split", "chip_id"])["pixels"].sum()
    assert (per_chip == 32 * 28).all()


class FourHeads(torch.nn.Module):
    """A convolution per output, the mask's deeply supervised in training mode."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        sizes = {"mask": classes, "boundary": classes, "distance": classes, "colour": 3, "aux_1": classes}
        self.heads = torch.nn.ModuleDict({name: torch.nn.Conv2d(3, size, 3, padding=1) for name, size in sizes.items()})

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: head(image) for name, head in self.heads.items() if self.training or name != "aux_1"}


def test_a_network_of_several_heads_learns_all_its_tasks(
    region: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "create", lambda name, in_channels, classes, **params: FourHeads(classes))
    spec = a_spec(epochs=3) | {"loss": {"name": "multi_task", "params": {}}}
    lines = run_training(region, tmp_path, spec)
    assert sum("boundary, distance, colour of 56 chips" in line for line in lines) == 1
    rows = history(tmp_path)
    values = [float(row["train_loss"]) for row in rows]
    assert values == sorted(values, reverse=True)
    again = run_training(region, tmp_path, spec)  # the state is there, and so are the targets
    assert not any("derived" in line for line in again)
    metrics = evaluate(tmp_path / "out", region, tmp_path / "work", lambda _: None)["checkpoints"]
    for entry in metrics.values():  # targets derived batch by batch are those that lay in the folder
        assert entry["val"]["loss"] == float(rows[entry["epoch"] - 1]["val_loss"])
    before = FourHeads(2).state_dict().keys()
    assert all(f"best_accuracy/{name}" in weights(tmp_path) for name in before)


def test_a_loss_of_heads_that_the_network_does_not_have_is_one_line(region: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the network gives no boundary and no distance and no colour logits") as caught:
        run_training(region, tmp_path, a_spec(epochs=1) | {"loss": {"name": "multi_task", "params": {}}})
    assert "\n" not in str(caught.value)


def test_half_a_file_of_a_killed_process_is_not_published(region: Path, tmp_path: Path) -> None:
    left = tmp_path / "work" / "checkpoints" / ".best_accuracy.1.part.safetensors"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    run_training(region, tmp_path, a_spec(epochs=1))
    metrics = evaluate(tmp_path / "out", region, tmp_path / "work", lambda _: None)
    assert sorted(metrics["checkpoints"]) == ["best_accuracy", "best_jaccard"]
    published = sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir())
    assert published == [
        f"best_{name}.{end}" for name in ("accuracy", "jaccard") for end in ("json", "safetensors")
    ] + [
        "last.json",
        "last.safetensors",
    ]


WITHOUT_GEO = """
import runpy
from importlib.machinery import PathFinder

HIDDEN = {"rasterio", "geopandas", "osmium", "pyogrio", "pyproj", "shapely", "ruamel", "scipy", "pandas",
          "segmentation_models_pytorch", "torchvision", "snakemake", "pydantic", "kornia", "matplotlib", "sklearn",
          "tensorboard", "mlflow", "dvclive", "psutil", "timm"}

find = PathFinder.find_spec  # as if they were not installed: nothing is found
PathFinder.find_spec = lambda name, *more: None if name.partition(".")[0] in HIDDEN else find(name, *more)
runpy.run_path("SCRIPT", run_name="__main__")
"""


def lean(script: Path, folder: Path, *words: str) -> None:
    """Run a script as on a machine with torch, numpy, pyarrow and safetensors alone."""
    (folder / script.name).write_text(WITHOUT_GEO.replace("SCRIPT", str(script)))
    command = [sys.executable, str(folder / script.name), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_training_needs_no_geo_packages_and_no_config(region: Path, tmp_path: Path) -> None:
    loss = {"name": "weighted_sum", "params": {"terms": ["focal", "boundary_distance"]}}
    (tmp_path / "run.json").write_text(json.dumps({"spec": a_spec(epochs=1) | {"loss": loss}}))
    out, places = tmp_path / "out", ["--data", str(region), "--work", str(tmp_path / "work")]
    lean(SCRIPT, tmp_path, "--run", "x", "--spec", str(tmp_path / "run.json"), "--out", str(out), *places)
    assert (out / "checkpoints" / "best_accuracy.safetensors").is_file()
    lean(SCRIPT.with_name("evaluate.py"), tmp_path, "--run", str(out), *places)
    assert read_json(out / "metrics.json")["checkpoints"].keys() == {"best_accuracy", "best_jaccard"}
