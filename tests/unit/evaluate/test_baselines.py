"""Baselines predict what their names say and write what the tables read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import variants
from pipeline.dataset.joined import join
from pipeline.dataset.store import ChipStore, writing
from pipeline.errors import PipelineError
from pipeline.evaluate.baseline import predict_baseline
from pipeline.files import read_json
from tests.support.tiny import a_spec, write_region


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_region(tmp_path_factory.mktemp("data"))


def spec_of(name: str, **params: Any) -> dict[str, Any]:
    resolved = variants.check("baselines", name, params, "test")
    return {
        "version": 1,
        "kind": "baseline",
        "data": a_spec()["data"],
        "model": {"name": name, "params": resolved},
        "seed": 0,
    }


def accuracy(out: Path, split: str) -> float:
    rows = pq.read_table(out / "confusion.parquet").to_pandas()
    rows = rows[rows["split"] == split]
    return float(rows[rows["truth"] == rows["predicted"]]["pixels"].sum() / rows["pixels"].sum())


def test_the_forest_is_as_good_as_single_pixels_allow(region: Path, tmp_path: Path) -> None:
    """Two grey levels 90 apart in noise of 45 in three bands: the best single-pixel rule is right Φ(√3) of the time."""
    predict_baseline("random_forest.x", spec_of("random_forest"), "code", region, tmp_path, lambda _: None)
    assert accuracy(tmp_path, "test") == pytest.approx(0.958, abs=0.015)
    facts = read_json(tmp_path / "run.json")
    assert facts["kind"] == "baseline" and facts["classes"] == ["dark", "bright"]
    assert np.load(tmp_path / "predictions" / "test.npy").shape == (8, 32, 32)


def test_constant_is_right_as_often_as_its_class_occurs(region: Path, tmp_path: Path) -> None:
    predict_baseline("constant.x", spec_of("constant", label="bright"), "code", region, tmp_path, lambda _: None)
    joined = join(region, a_spec()["data"])
    truth = joined.batch(joined.rows["test"])[1]
    assert accuracy(tmp_path, "test") == pytest.approx(float((truth == 1).mean()), abs=1e-12)


def test_constant_without_a_class_takes_the_most_frequent_of_training(region: Path) -> None:
    joined = join(region, a_spec()["data"])
    predicted = variants.load("baselines", "constant").build()(joined, 0)
    truth = joined.batch(joined.rows["train"])[1]
    assert (predicted["val"] == np.bincount(truth.ravel()).argmax()).all()


def test_constant_names_the_choices_for_an_unknown_class(region: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no class 'brigth'; did you mean 'bright'"):
        predict_baseline("constant.x", spec_of("constant", label="brigth"), "c", region, tmp_path, lambda _: None)


def test_land_cover_is_taken_as_it_is_and_filled_where_it_has_none(tmp_path: Path) -> None:
    data = write_region(tmp_path / "data")
    labels = ChipStore.open(data / "tiny" / "chips" / "osm")
    with writing(data / "tiny" / "chips" / "landcover-coarse", 1, np.uint8, 32, dict(labels.meta)) as writer:
        for at in reversed(range(len(labels))):  # another order than the labels'
            chip = 1 - labels.chips[at]
            chip[0, 0, 0] = 255
            place = {key: values[at] for key, values in labels.index.items()}
            writer.append(chip, np.ones((32, 32), bool), **place)
    predict_baseline("landcover.x", spec_of("landcover", source="coarse"), "c", data, tmp_path, lambda _: None)
    joined = join(data, a_spec()["data"])
    truth = joined.batch(joined.rows["test"])[1]
    predicted = np.load(tmp_path / "predictions" / "test.npy")
    assert (predicted[:, 1:] == 1 - truth[:, 1:]).all()
    assert set(np.unique(predicted[:, 0, 0])) <= {0, 1} and len(np.unique(predicted[:, 0, 0])) == 1
