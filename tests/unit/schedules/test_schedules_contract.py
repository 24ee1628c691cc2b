"""What every schedule promises, whatever its file. A file may declare SMALL: parameters for this test."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import schedules, variants
from pipeline.errors import ConfigError
from pipeline.schedules._stage import Part, Stage

NAMES = variants.names("schedules")
COLUMNS = ("train_loss", "val_loss", "val_accuracy", "val_jaccard_coefficient", "val_mean_iou")
SCORES = st.one_of(st.floats(-1e6, 1e6), st.just(math.nan), st.just(math.inf))
HISTORIES = st.lists(st.fixed_dictionaries(dict.fromkeys(COLUMNS, SCORES)), max_size=60)
RATES = st.floats(1e-7, 10)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def make(name: str) -> Any:
    return schedules.create(name, **variants.declared("schedules", name, "SMALL", {}))


def rows(history: list[dict[str, float]], lr: float) -> list[dict[str, float]]:
    return [{"epoch": number, "lr": lr, **row, "seconds": 1.0} for number, row in enumerate(history, 1)]


@settings(max_examples=40)
@given(history=HISTORIES, lr=RATES)
@pytest.mark.parametrize("name", NAMES)
def test_a_stage_for_any_history(name: str, history: list[dict[str, float]], lr: float) -> None:
    """Finite, above 0, a known part; of the same values the same; what it is given stays as it is."""
    given_rows = rows(history, lr)
    before = copy.deepcopy(given_rows)
    schedule = make(name)
    stage = schedule(len(history), lr, given_rows)
    assert isinstance(stage, Stage) and math.isfinite(stage.lr) and stage.lr > 0
    assert stage.part in get_args(Part) and stage.number >= 0
    assert repr(given_rows) == repr(before)
    schedule(0, lr * 3, [])
    assert schedule(len(history), lr, copy.deepcopy(given_rows)) == stage == make(name)(len(history), lr, before)


def test_a_long_run_of_bad_epochs_keeps_a_rate_above_zero(name: str) -> None:
    history = rows([dict.fromkeys(COLUMNS, math.nan)] * 2000, 1e-3)
    schedule = make(name)
    assert all(schedule(epoch, 1e-3, history[:epoch]).lr > 0 for epoch in (0, 1, 500, 2000))


def test_a_first_epoch_has_no_history_and_the_number_of_the_stage_never_falls(name: str) -> None:
    history = rows([{column: float(epoch % 7) for column in COLUMNS} for epoch in range(300)], 0.1)
    schedule = make(name)
    numbers = [schedule(epoch, 0.1, history[:epoch]).number for epoch in range(300)]
    assert numbers[0] == 0 and numbers == sorted(numbers)


def test_unknown_parameters_list_the_choices(name: str) -> None:
    with pytest.raises(ConfigError, match=f"schedule '{name}' has no parameter 'no_such'; "):
        schedules.create(name, no_such=1)


def test_schedules_import_neither_torch_nor_numpy() -> None:
    """They are read while the Snakefile is parsed; all in one process, with everything they import."""
    text = "import sys\nfrom pipeline import schedules, variants\n"
    text += "for name in variants.names('schedules'):\n    variants.load('schedules', name)\n"
    text += "    variants.light('schedules', name)\n"
    text += "print(sorted({'torch', 'numpy', 'pandas', 'rasterio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
