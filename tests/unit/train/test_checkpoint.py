"""Checkpoints: what is written is read back; whatever else a file may be is one line, and is never executed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pipeline import models
from pipeline.errors import RunError
from pipeline.train.checkpoint import load_checkpoint, save_checkpoint

FACTS: dict[str, Any] = {
    "model": {"name": "unet", "params": {"width": 2, "depth": 2}},
    "in_channels": 3,
    "classes": ["dark", "bright"],
    "offset": [0.0, 0.0, 0.0],
    "scale": [255.0, 255.0, 255.0],
    "epoch": 4,
}


def network() -> torch.nn.Module:
    torch.manual_seed(1)
    return models.create("unet", in_channels=3, classes=2, width=2, depth=2)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, network().state_dict(), FACTS)
    return path


def refused(path: Path) -> str:
    with pytest.raises(RunError) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value) and path.stem in str(caught.value)
    return str(caught.value)


def rewrite(path: Path, **changed: Any) -> None:
    path.with_suffix(".json").write_text(json.dumps({**FACTS, **changed}))


def test_what_was_saved_is_read_back(saved: Path) -> None:
    model, facts = load_checkpoint(saved)
    assert facts == FACTS and not model.training
    expected = network().state_dict()
    found = model.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


@given(share=st.floats(0, 1, exclude_max=True))
@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cut_short_anywhere(saved: Path, share: float) -> None:
    path = saved.with_name("cut.safetensors")
    path.write_bytes(saved.read_bytes()[: int(saved.stat().st_size * share)])
    rewrite(path)
    assert "cut.safetensors is no safetensors file, or is cut short: " in refused(path)


@given(content=st.binary(max_size=200))
@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_bytes(saved: Path, content: bytes) -> None:
    saved.write_bytes(content)
    refused(saved)


class Bomb:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_pickle_is_not_opened(saved: Path, tmp_path: Path) -> None:
    for number, write in enumerate(
        (lambda path, bomb: path.write_bytes(pickle.dumps(bomb)), lambda p, b: torch.save(b, p))
    ):
        traces = tmp_path / f"executed{number}"
        write(saved, Bomb(traces))
        assert "is no safetensors file" in refused(saved)
        assert not traces.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no JSON of a checkpoint"),
        ("{", "is no JSON of a checkpoint"),
        ("\xff\xfe".encode("latin-1"), "is no JSON of a checkpoint"),
        ("[" * 100_000, "is no JSON of a checkpoint"),
        ("[]", "it names no model with its params"),
        ("null", "it names no model with its params"),
        ('{"model": "unet"}', "it names no model with its params"),
        ('{"model": {"name": "unet"}}', "it names no model with its params"),
        ('{"model": {"name": 3, "params": {}}}', "it names no model with its params"),
        ('{"model": {"name": "unet", "params": {}}}', "in_channels must be a whole number above 0, got None"),
    ],
)  # fmt: skip
def test_a_json_that_is_none(saved: Path, text: str | bytes, words: str) -> None:
    saved.with_suffix(".json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert words in refused(saved)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"in_channels": True}, "in_channels must be a whole number above 0, got True"),
        ({"in_channels": "3"}, "in_channels must be a whole number above 0, got '3'"),
        ({"classes": []}, "classes must be a list of names, got []"),
        ({"classes": ["a", 1]}, "classes must be a list of names"),
        ({"classes": {"a": 1}}, "classes must be a list of names"),
        ({"offset": [0.0, 0.0]}, "offset must be a number per band (3), got [0.0, 0.0]"),
        ({"offset": None}, "offset must be a number per band (3), got None"),
        ({"scale": [1.0, 0.0, 1.0]}, "scale must be a number per band (3), got [1.0, 0.0, 1.0]"),
        ({"scale": [1.0, float("nan"), 1.0]}, "scale must be a number per band (3)"),
        ({"model": {"name": "unett", "params": {}}}, "no model 'unett'; did you mean 'unet'?"),
        ({"model": {"name": "../x", "params": {}}}, "no model '../x'"),
        ({"model": {"name": "unet", "params": {"widht": 2}}}, "did you mean 'width'?"),
        ({"model": {"name": "unet", "params": {"width": "2"}}}, "width"),
        ({"model": {"name": "unet", "params": {"width": 0}}}, "width"),
        ({"in_channels": 4, "offset": [0.0] * 4, "scale": [1.0] * 4}, "is [2, 3, 3, 3], the model's is [2, 4, 3, 3]"),
        ({"classes": ["a", "b", "c"]}, "is [2, 2, 1, 1], the model's is [3, 2, 1, 1]"),
        ({"model": {"name": "unet", "params": {"width": 2, "depth": 3}}}, "it has no tensor "),
    ],
)  # fmt: skip
def test_a_json_of_another_model(saved: Path, changed: dict[str, Any], words: str) -> None:
    rewrite(saved, **changed)
    assert words in refused(saved)


def test_tensors_that_lack_or_are_too_many(saved: Path) -> None:
    tensors = load_file(saved)
    first, last = next(iter(network().state_dict())), list(network().state_dict())[-1]
    save_file({name: tensor for name, tensor in tensors.items() if name != first}, saved)
    assert f"it has no tensor {first} [2, 3, 3, 3]" in refused(saved)
    save_file(tensors | {"head.more": torch.zeros(5)}, saved)
    assert "the model has no tensor head.more, which the file has as [5]" in refused(saved)
    save_file(tensors | {last: tensors[last].to(torch.int32)}, saved)
    assert f"{last} is torch.int32, the model's is torch.float32" in refused(saved)
    save_file({name: t.double() if t.is_floating_point() else t for name, t in tensors.items()}, saved)
    model, _ = load_checkpoint(saved)  # another precision is the same network
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(saved: Path, value: float) -> None:
    tensors = load_file(saved)
    name = next(name for name, _ in network().named_parameters())
    tensors[name].view(-1)[0] = value
    save_file(tensors, saved)
    assert f"has values in {name} that are not finite" in refused(saved)


@pytest.mark.parametrize("lacking", [".safetensors", ".json"])
def test_one_file_of_two(saved: Path, lacking: str) -> None:
    saved.with_suffix(lacking).unlink()
    assert "there is no checkpoint" in refused(saved)


def test_a_folder_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").mkdir()
    assert "there is no checkpoint" in refused(tmp_path / "x.safetensors")
