"""Schedules beside the other settings of a study: what is refused while the Snakefile is parsed, and what is not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import variants
from pipeline.defaults import FROZEN_TRAIN
from pipeline.errors import ConfigError
from pipeline.protocol import check_protocol, check_schedule
from pipeline.runs import Study, expand_runs

PROJECT = Path(__file__).resolve().parents[3]
BRIGHT = {"name": "mean_iou", "params": {"leave_out": ["dark"]}}
PLACE = "config/studies/mine.yaml: train"


def check(name: str, params: dict[str, Any], model: str = "unet", **train: Any) -> None:
    resolved = variants.check("schedules", name, params, f"{PLACE}.schedule")
    settings = FROZEN_TRAIN | train | {"schedule": {"name": name, "params": resolved}}
    check_protocol(settings, ["dark", "bright"], PLACE)
    check_schedule(model, settings, f"{PLACE}.schedule")


@pytest.mark.parametrize(
    ("name", "params", "train"),
    [
        ("staged_unfreezing", {}, {"epochs": 166}),
        ("staged_unfreezing", {}, {"epochs": 107}),
        ("staged_unfreezing", {"stages": [{"part": "all", "lr": 1e-3}]}, {"epochs": 1}),
        ("reduce_on_plateau", {"monitor": "val_iou_bright"}, {}),
        ("reduce_on_plateau", {"monitor": "train_loss"}, {}),
        ("reduce_on_plateau", {"patience": 4}, {}),
        ("reduce_on_plateau", {"threshold": 1e-4}, {}),
        ("reduce_on_plateau", {"monitor": "val_monitor"}, {"monitor": BRIGHT, "patience": 11}),
        ("cosine", {"warmup": 29}, {}),
    ],
)
def test_what_fits(name: str, params: dict[str, Any], train: dict[str, Any]) -> None:
    check(name, params, **train)


@pytest.mark.parametrize(
    ("name", "params", "train", "words"),
    [
        ("staged_unfreezing", {}, {}, "the run's 30 epochs end before stage 4 begins; set epochs to 166, or shorten"),
        ("staged_unfreezing", {}, {"epochs": 106}, "end before stage 4"),
        ("reduce_on_plateau", {"monitor": "val_mean_iu"}, {}, "no score 'val_mean_iu'; did you mean 'val_mean_iou'"),
        ("reduce_on_plateau", {"monitor": "lr"}, {}, "no score 'lr'"),
        ("reduce_on_plateau", {}, {}, "early stop's patience 5 ends the run before the rate falls"),
        ("reduce_on_plateau", {"monitor": "val_monitor"}, {"monitor": BRIGHT}, "early stop's patience 5"),
        ("reduce_on_plateau", {"monitor": "val_monitor"}, {}, "no score 'val_monitor'"),
        ("reduce_on_plateau", {"patience": 2, "min_lr": 1e-3}, {}, "min_lr 0.001 must be below the run's lr 0.001"),
        ("cosine", {"warmup": 30}, {}, "epochs 30 must be more than the 30 epochs of warmup"),
        ("polynomial", {"min_lr": 0.1}, {}, "min_lr 0.1 must be below"),
    ],
)
def test_what_does_not_is_one_line(name: str, params: dict[str, Any], train: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(name, params, **train)
    text = str(caught.value)
    assert words in text and text.startswith(f"{PLACE}.schedule: ") and name in text and "\n" not in text


def test_parts_need_a_model_that_names_its_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = variants.declared
    known = {"ENCODER": None}
    monkeypatch.setattr(variants, "declared", lambda *args: known[args[2]] if args[2] in known else declared(*args))
    check("staged_unfreezing", {"stages": [{"part": "all", "lr": 1e-3}]})
    with pytest.raises(ConfigError, match="trains the part decoder and decoder_and_norms alone, and model 'unet'"):
        check("staged_unfreezing", {}, epochs=166)


@pytest.fixture
def study(tmp_path: Path) -> Any:
    shutil.copytree(PROJECT / "config", tmp_path / "config")

    def expanded(train: str) -> Study:
        yaml = YAML(typ="safe", pure=True)
        content = yaml.load((PROJECT / "config" / "studies" / "demo.yaml").read_text())
        text = {**content, "models": ["unet"], "losses": ["focal"], "train": yaml.load(train)}
        with open(tmp_path / "config" / "studies" / f"mine{abs(hash(train))}.yaml", "w") as handle:
            yaml.dump(text, handle)
        return expand_runs(f"mine{abs(hash(train))}", tmp_path / "config", PROJECT / "rules" / "variants")

    return expanded


def networks(study: Study) -> list[Any]:
    return [run for run in study.runs if run.kind == "run"]


def test_a_study_of_schedules(study: Any) -> None:
    found = networks(
        study(
            "{epochs: 166, patience: 50, schedule: [constant, staged_unfreezing, cosine, {reduce_on_plateau: "
            "{reductions: 3}}, {delayed_exponential: {gamma: 0.5}}]}"
        )
    )
    assert [run.varied["train.schedule"] for run in found] == [
        *("constant", "staged_unfreezing", "cosine", "reduce_on_plateau", "delayed_exponential")
    ]
    assert len({run.id for run in found}) == 5
    assert found[2].spec["train"]["schedule"] == {
        "name": "cosine",
        "params": {"epochs": None, "warmup": 0, "min_lr": 0.0},
    }


def test_a_default_written_out_is_the_same_run(study: Any) -> None:
    plain = networks(study("{epochs: 166, schedule: staged_unfreezing}"))
    text = (
        "{epochs: 166, schedule: {staged_unfreezing: {stages: [{part: decoder, lr: 3e-3, epochs: 3}, {epochs: 3, "
        "part: decoder_and_norms, lr: 0.001}, {lr: 1e-4, epochs: 100}, {part: all, lr: 1e-5, epochs: 60}]}}}"
    )
    assert [run.id for run in networks(study(text))] == [run.id for run in plain]


def test_a_mistake_names_the_file(study: Any) -> None:
    with pytest.raises(ConfigError, match=r"studies/mine\d+.yaml: train.schedule: schedule 'cosine' has no parameter"):
        study("{schedule: {cosine: {warm_up: 3}}}")
    with pytest.raises(ConfigError, match=r"studies/mine\d+.yaml: train.schedule: schedule staged_unfreezing: the run"):
        study("{schedule: staged_unfreezing}")
