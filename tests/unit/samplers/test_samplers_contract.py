"""What every sampler promises, whatever its file; SMALL in the file gives it parameters for this test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline import samplers, variants
from pipeline.errors import ConfigError, PipelineError
from pipeline.samplers._chips import Chips

if TYPE_CHECKING:
    from pipeline.samplers import Sampler

NAMES = variants.names("samplers")
RNG = np.random.default_rng(0)
COUNTS = {
    "usual": RNG.integers(0, 300, (20, 3)) * (RNG.random((20, 3)) < 0.7) + [1, 0, 0],
    "one chip": np.array([[5, 0, 11]]),
    "two chips": np.array([[5, 0, 11], [16, 0, 0]]),
    "a scheme of one class": np.full((4, 1), 16),
    "one class alone": np.array([[0, 16, 0]] * 4),
    "an empty class": np.array([[9, 0, 7], [16, 0, 0], [4, 0, 4]]),
    "chips without labels": np.array([[0, 0, 0], [9, 4, 0], [0, 0, 0], [0, 0, 1]]),
    "no labels at all": np.zeros((3, 3), np.int64),
}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=COUNTS)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(name: str) -> Sampler:
    return samplers.create(name, **variants.declared("samplers", name, "SMALL", {}))


def chips_of(name: str, case: str, errors: str = "never shown") -> Chips:
    """The chips of a case, read-only, with errors for a sampler that asks for them."""
    counts = COUNTS[case].astype(np.int64)
    known = np.full(len(counts), np.nan, np.float32)
    if samplers.needs_errors(name) and errors != "never shown":
        known = np.random.default_rng(1).random(len(counts)).astype(np.float32)
        known[:: 2 if errors == "half shown" else len(known) + 1] = np.nan
        if errors == "all right":
            known[:] = 0
    for array in (counts, known):
        array.flags.writeable = False
    return Chips(counts, ["background", "road", "water"][: counts.shape[1]], known)


@pytest.mark.parametrize("errors", ["never shown", "half shown", "all shown", "all right"])
def test_positions_within_the_split_or_one_line(name: str, case: str, errors: str) -> None:
    chips = chips_of(name, case, errors)
    try:
        shown = make(name)(chips, np.random.default_rng([7, 0]))
    except PipelineError as error:
        assert case not in ("usual", "two chips") and "\n" not in str(error) and len(str(error)) > 20
        return
    assert shown.dtype == np.int64 and shown.ndim == 1 and len(shown) >= 1
    assert 0 <= shown.min() <= shown.max() < len(chips)


def test_a_function_of_the_chips_and_the_generator_alone(name: str) -> None:
    one, other = make(name), make(name)
    for epoch in range(3):
        for errors in ("never shown", "all shown"):
            chips = chips_of(name, "usual", errors)
            np.random.seed(epoch)
            first = one(chips, np.random.default_rng([7, epoch]))
            one(chips_of(name, "two chips"), np.random.default_rng(1))
            assert np.array_equal(first, other(chips, np.random.default_rng([7, epoch])))


def test_unknown_names_list_the_choices(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no sampler 'unifrom'; did you mean 'uniform'\? choices: .*uniform"):
        samplers.create("unifrom")
    with pytest.raises(ConfigError, match=f"sampler '{name}' has no parameter 'no_such'; "):
        samplers.create(name, no_such=1)
