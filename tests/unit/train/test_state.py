"""The resume state: how often it is written, what becomes of a damaged one, and of a disk that is full."""

from __future__ import annotations

import itertools
import pickle
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.errors import RunError
from pipeline.train import state
from pipeline.train.checkpoint import save_checkpoint
from pipeline.train.engine import train
from pipeline.train.state import Learner, Progress, Saver, load
from tests.support.tiny import a_spec

DAMAGED = "is damaged"


def learner() -> Learner:
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 4, 3)
    made = Learner(model, torch.optim.Adam(model.parameters()), Progress(history=[{"epoch": 1, "val_loss": 0.5}]))
    made.keep("last", {"epoch": 1})
    return made


def saved(work: Path, fingerprint: str = "f") -> Path:
    work.mkdir(exist_ok=True)
    assert Saver(work, fingerprint).save(learner(), None)
    return work / state.FILE


def discarded(work: Path, words: str, fingerprint: str = "f") -> None:
    lines: list[str] = []
    assert load(work, fingerprint, lines.append) is None
    assert len(lines) == 1 and words in lines[0] and "training from the start" in lines[0] and "\n" not in lines[0]
    assert not (work / state.FILE).exists()


def test_what_was_saved_is_taken_up(tmp_path: Path) -> None:
    saved(tmp_path)
    lines: list[str] = []
    found = load(tmp_path, "f", lines.append)
    assert found is not None and not lines
    again = learner()
    with torch.no_grad():
        again.model.weight.zero_()
    again.restore(found)
    assert torch.equal(again.model.weight, learner().model.weight)
    assert again.progress.history == learner().progress.history and again.kept["last"].facts == {"epoch": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return saved(tmp_path_factory.mktemp("state")).read_bytes()


@given(share=st.floats(0, 1, exclude_max=True))
@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cut_short_anywhere(whole: bytes, tmp_path: Path, share: float) -> None:
    (tmp_path / state.FILE).write_bytes(whole[: int(len(whole) * share)])
    discarded(tmp_path, DAMAGED)


@given(content=st.binary(max_size=200))
@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / state.FILE).write_bytes(content)
    discarded(tmp_path, DAMAGED)


def test_of_another_spec(tmp_path: Path) -> None:
    saved(tmp_path, "of another")
    discarded(tmp_path, "of another spec, data or code")


@pytest.mark.parametrize("key", sorted(state.KEYS))
def test_of_a_layout_that_lacks_a_key(tmp_path: Path, key: str) -> None:
    path = saved(tmp_path)
    content = torch.load(path, weights_only=True)
    del content[key]
    torch.save(content, path)
    discarded(tmp_path, DAMAGED)


@pytest.mark.parametrize("change", [{"stage": None}, {"more": 1}])
def test_of_a_layout_with_other_progress(tmp_path: Path, change: dict[str, Any]) -> None:
    path = saved(tmp_path)
    content = torch.load(path, weights_only=True)
    content["progress"].update({key: value for key, value in change.items() if value is not None})
    for key in (key for key, value in change.items() if value is None):
        del content["progress"][key]
    torch.save(content, path)
    discarded(tmp_path, DAMAGED)


@pytest.mark.parametrize("content", [[], None, 3, {"fingerprint": "f"}, {"progress": {}}, torch.zeros(3)])
def test_of_something_else(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / state.FILE)
    discarded(tmp_path, DAMAGED)


class Bomb:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_code_in_it_is_not_executed(tmp_path: Path) -> None:
    path, trace = saved(tmp_path), tmp_path / "executed"
    content = torch.load(path, weights_only=True) | {"search": Bomb(trace)}
    torch.save(content, path)
    discarded(tmp_path, DAMAGED)
    path.write_bytes(pickle.dumps(Bomb(trace)))
    discarded(tmp_path, DAMAGED)
    assert not trace.exists()


def shrunk(content: dict[str, Any]) -> None:
    name = next(iter(content["model"]))
    content["model"][name] = content["model"][name][:1]


def without_optimizer_groups(content: dict[str, Any]) -> None:
    content["optimizer"] = {"state": {}, "param_groups": []}


def other_errors(content: dict[str, Any]) -> None:
    content["errors"] = torch.zeros(3)


@pytest.mark.parametrize("damage", [shrunk, without_optimizer_groups, other_errors])
def test_one_that_does_not_fit_changes_nothing(region: Path, tmp_path: Path, damage: Any) -> None:
    """Half taken up and found not to fit: the run is as one that had no state."""

    def run(name: str) -> list[str]:
        lines: list[str] = []
        place = {"out": tmp_path / name / "out", "work": tmp_path / name / "work"}
        train("run", a_spec(epochs=1), "code", data=region, **place, log=lines.append)
        return lines

    run("a")
    path = tmp_path / "a" / "work" / state.FILE
    content = torch.load(path, weights_only=True)
    expected = {name: tensor.clone() for name, tensor in content["model"].items()}
    damage(content)
    torch.save(content, path)
    assert sum(DAMAGED in line for line in run("a")) == 1
    again = torch.load(path, weights_only=True)["model"]
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_a_twentieth_of_the_time_goes_into_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of 1 s, states that take 2 s to write: one in 40 epochs or so."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(state, "time", SimpleNamespace(monotonic=lambda: clock.now))
    spent = 0.0

    def slow(*_: Any) -> None:
        nonlocal spent
        clock.now += 2.0
        spent += 2.0

    monkeypatch.setattr(torch, "save", slow)
    saver, made, written = Saver(tmp_path, "f"), learner(), []
    for epoch in range(1, 401):
        clock.now += 1.0
        if saver.save(made, None):
            written.append(epoch)
    assert written[0] == 1  # the first tells what one costs
    assert all(later - before == 40 for before, later in itertools.pairwise(written))
    assert spent / clock.now <= 0.055 and spent / clock.now > 0.04
    clock.now += 1.0
    assert saver.save(made, None, last=True)


def test_fast_states_are_written_after_every_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(state, "time", SimpleNamespace(monotonic=lambda: clock.now))
    saver, made = Saver(tmp_path, "f"), learner()
    for _ in range(5):
        clock.now += 1.0
        assert saver.save(made, None)


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: what a full disk does, without one."""
    before, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, action)


def test_a_full_disk_is_one_line_and_leaves_the_state_of_before(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()
    model = torch.nn.Linear(200, 200)
    large = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), Progress())
    with disk_of(50_000), pytest.raises(RunError) as caught:
        Saver(tmp_path, "f").save(large, None)
    text = str(caught.value)
    assert text.startswith(f"the resume state {path} cannot be written: File too large; it takes 0.2 MB, where ")
    assert "\n" not in text
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_checkpoint_on_a_full_disk_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    with disk_of(50_000), pytest.raises(RunError) as caught:
        save_checkpoint(path, {"weight": torch.zeros(200, 200)}, {})
    assert str(caught.value).startswith(f"the checkpoint {path} cannot be written: ")
    assert "0.2 MB" in str(caught.value) and not list(tmp_path.iterdir())


def test_an_error_of_another_kind_is_not_called_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        save_checkpoint(tmp_path / "file" / "last.safetensors", {"weight": torch.zeros(1)}, {})


def test_what_is_kept_is_a_copy() -> None:
    made = learner()
    with torch.no_grad():
        made.model.weight.zero_()
    assert np.any(made.kept["last"].weights["weight"].numpy())
