"""What the settings of a training must satisfy together: every mistake is one line that names the place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.defaults import FROZEN_TRAIN
from pipeline.errors import ConfigError
from pipeline.protocol import check_protocol, checkpoint_name, monitored, score_names
from pipeline.runs import expand_runs

CLASSES = ["water", "road"]


def settings(**changed: Any) -> dict[str, Any]:
    assert changed.keys() <= FROZEN_TRAIN.keys()
    return FROZEN_TRAIN | changed


def refused(**changed: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        check_protocol(settings(**changed), CLASSES, "study: train")
    text = str(caught.value)
    assert text.startswith("study: train.") and "\n" not in text
    return text


def test_names_of_checkpoints() -> None:
    named = {name: checkpoint_name(name) for name in ("val_accuracy", "val_jaccard_coefficient", "val_mean_iou")}
    assert list(named.values()) == ["best_accuracy", "best_jaccard", "best_mean_iou"]
    assert [checkpoint_name(name) for name in ("val_iou_water", "train_loss", "val_loss", "monitor", "last")] == [
        "best_iou_water", "best_train_loss", "best_loss", "best_monitor", "last",
    ]  # fmt: skip
    every = [*score_names(CLASSES), "monitor", "last"]
    assert len({checkpoint_name(name) for name in every}) == len(every)


def test_a_metric_that_is_called_as_a_score_has_a_column_of_its_own() -> None:
    assert monitored(settings()) == "val_loss"
    entry = {"name": "mean_iou", "params": {"leave_out": ["water"]}}
    assert monitored(settings(monitor=entry)) not in score_names(CLASSES)


@pytest.mark.parametrize("name", [*score_names(CLASSES)])
def test_every_score_may_be_watched_and_kept(name: str) -> None:
    check_protocol(settings(monitor=name, checkpoints=[name, "monitor", "last"]), CLASSES, "here")


def test_a_misspelt_score() -> None:
    assert "monitor: no score 'val_mean_io'; did you mean 'val_mean_iou'? choices: train_loss, " in refused(
        monitor="val_mean_io"
    )
    assert "monitor: no score 'val_iou_rod'; did you mean 'val_iou_road'?" in refused(monitor="val_iou_rod")
    assert "checkpoints: no score 'lst'; did you mean 'last'?" in refused(checkpoints=["val_loss", "lst"])
    assert "monitor: no score 'monitor'" in refused(monitor="monitor")


def test_choices_name_a_score_once() -> None:
    said = refused(schedule={"name": "reduce_on_plateau", "params": {"monitor": "val_los"}})
    assert said.partition("choices: ")[2].split(", ").count("val_loss") == 1


def test_checkpoints_none_or_twice() -> None:
    assert "checkpoints must name one score or more, none twice; got []" in refused(checkpoints=[])
    assert "got ['last', 'last']" in refused(checkpoints=["last", "last"])


def test_parts_and_devices_divide_the_batch() -> None:
    assert "micro_batch 5 must divide batch_size 32" in refused(micro_batch=5)
    assert "micro_batch 64 must divide batch_size 32" in refused(micro_batch=64)
    assert "devices 3 must divide batch_size 32" in refused(devices=3)
    assert "devices 4 must divide the 2 parts of a batch (batch_size / micro_batch)" in refused(
        devices=4, micro_batch=16
    )
    for fits in ({"devices": 4}, {"devices": 2, "micro_batch": 8}, {"micro_batch": 32}):
        check_protocol(settings(**fits), CLASSES, "here")


def metric(name: str, **params: Any) -> dict[str, Any]:
    return {"name": name, "params": params}


def test_a_metric_that_early_stopping_cannot_watch() -> None:
    assert "monitor: 'hausdorff' is no metric of confusion counts" in refused(monitor=metric("hausdorff"))
    assert "monitor: 'roc_auc' is no metric of confusion counts" in refused(monitor=metric("roc_auc"))
    misspelt = metric("mean_iou", leave_out=["rod"])
    assert "monitor: mean_iou.leave_out: no class 'rod'; did you mean 'road'?" in refused(monitor=misspelt)
    assert "leave_out names all classes" in refused(monitor=metric("mean_iou", leave_out=["road", "water"]))
    check_protocol(settings(monitor=metric("mean_iou", leave_out=["road"])), CLASSES, "here")
    check_protocol(settings(monitor=metric("mean_iou", leave_out=None)), CLASSES, "here")


def test_a_metric_that_falls_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import variants

    facts = {"NEEDS": "counts", "BEST": 0.0}
    monkeypatch.setattr(variants, "declared", lambda family, name, constant, default=None: facts.get(constant, default))
    assert "'error_rate' is best where it is lowest" in refused(monitor=metric("error_rate"))


Study = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A function of `train`: the settings of the runs of a study of the project's demo region, three seeds each."""
    root = tmp_path / "config"
    (root / "studies").mkdir(parents=True)
    for part in ("regions", "classes", "recipes", "providers"):
        (root / part).symlink_to(Path(__file__).resolve().parents[2] / "config" / part)

    def expanded(train: str) -> list[dict[str, Any]]:
        (root / "studies" / "own.yaml").write_text(
            "data: {region: demo, imagery: summer, recipe: osm, split: blocks}\n"
            f"models: [unet]\nlosses: [focal]\ntrain: {train}\nseeds: [0, 1, 2]\n"
        )
        return [run.spec["train"] for run in expand_runs("own", root).runs]

    return expanded


def test_in_a_study(study: Study) -> None:
    found = study("{checkpoints: last, monitor: {mean_iou: {leave_out: [forest]}}}")
    assert len(found) == 3  # a run per seed
    assert found[0]["checkpoints"] == ["last"]
    assert found[0]["monitor"] == {"name": "mean_iou", "params": {"leave_out": ["forest"]}}


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ("{monitor: val_los}", "train.monitor: no score 'val_los'; did you mean 'val_loss'?"),
        ("{monitor: {mean_iu: {}}}", "train.monitor: no metric 'mean_iu'; did you mean 'mean_iou'?"),
        ("{monitor: {mean_iou: {leave: [forest]}}}", "train.monitor: metric 'mean_iou' has no parameter 'leave'"),
        (
            "{monitor: {mean_iou: {leave_out: [forrest]}}}",
            "mean_iou.leave_out: no class 'forrest'; did you mean 'forest'?",
        ),
        ("{checkpoints: [val_iou_roofs]}", "train.checkpoints: no score 'val_iou_roofs'"),
        ("{checkpoints: []}", "checkpoints"),
        ("{batch_size: 12, micro_batch: 5}", "train.micro_batch 5 must divide batch_size 12"),
        ("{devices: 0}", "train.devices"),
    ],
)
def test_mistakes_in_a_study_are_one_line(study: Study, train: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study(train)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert "own.yaml" in str(caught.value)
