"""What every loss promises, whatever its file.

Constants of a loss's own file say what it needs: OUTPUTS and TARGETS (see conftest), SMALL (parameters for this test),
SIGNED (values below 0 are in order), SEES_AROUND (a pixel's share depends on its surroundings through a network, so
that cutting ignored pixels off is not neutral), OWN_WEIGHTS (classes have unlike weights where none are given),
SEES_BOUNDARIES_ALONE (a mask and its complement look alike, since their boundaries lie side by side), TWO_CLASSES_ALIKE
(of two classes each is scored as the other, so that weights tell nothing).
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import losses, variants
from pipeline.errors import ConfigError, RunError
from pipeline.train.objective import Objective
from tests.unit.losses.conftest import dressed, make

NAMES = variants.names("losses")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def pair(classes: int = 4, seed: int = 0, scale: float = 1.0, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 6, 5, generator=generator, dtype=torch.float64).to(dtype) * scale
    target = torch.randint(0, max(2, classes), (2, 6, 5), generator=generator)
    target[0, 0] = 255
    return logits.requires_grad_(), target


def loss_of(name: str, logits: torch.Tensor, target: torch.Tensor, **params: Any) -> torch.Tensor:
    return make(name, **params)(*dressed(name, logits, target))


def says(name: str, constant: str) -> bool:
    return bool(variants.declared("losses", name, constant, False))


@pytest.mark.parametrize("classes", [1, 2, 4])
class TestEveryLoss:
    def test_scalar_float32_with_finite_gradient(self, name: str, classes: int) -> None:
        logits, target = pair(classes)
        loss = loss_of(name, logits, target)
        loss.backward()
        assert loss.shape == () and loss.dtype == torch.float32 and (loss > 0 or says(name, "SIGNED"))
        assert torch.isfinite(logits.grad).all() and logits.grad.any()

    def test_gradcheck(self, name: str, classes: int) -> None:
        logits, target = pair(classes, dtype=torch.float64)
        logits = logits.detach().requires_grad_()
        loss = make(name)
        assert torch.autograd.gradcheck(lambda x: loss(*dressed(name, x, target)), (logits,))

    def test_right_beats_wrong(self, name: str, classes: int) -> None:
        _, target = pair(classes)
        known = target.masked_fill(target == 255, 0)
        if classes == 1:
            right = (known.float() * 2 - 1).unsqueeze(1) * 10
        else:
            right = (torch.nn.functional.one_hot(known, classes).permute(0, 3, 1, 2) * 2.0 - 1) * 10  # sigmoids too
        good, even, bad = (loss_of(name, logits, target) for logits in (right, right * 0, -right))
        wrong = even if says(name, "SEES_BOUNDARIES_ALONE") else bad
        assert good < even and good < wrong
        assert good < 0.05 * wrong or says(name, "SIGNED")

    def test_ignored_pixels_have_no_say(self, name: str, classes: int) -> None:
        logits, target = pair(classes)
        loss_of(name, logits, target).backward()
        assert not logits.grad[0, :, 0].any() and logits.grad[0, :, 1].any()
        other = logits.detach().clone()
        other[0, :, 0] = 40
        assert torch.equal(loss_of(name, other, target), loss_of(name, logits, target))

    def test_a_class_may_be_ignored_besides_255(self, name: str, classes: int) -> None:
        logits, target = pair(classes)
        got = loss_of(name, logits, target, ignore_index=1)
        assert torch.equal(got, loss_of(name, logits, target.masked_fill(target == 1, 255)))

    def test_cropping_ignored_pixels_away_changes_nothing(self, name: str, classes: int) -> None:
        logits, target = pair(classes)
        target[:, :2] = 255
        whole, cut = loss_of(name, logits, target), loss_of(name, logits[:, :, 2:], target[:, 2:])
        assert torch.isclose(whole, cut, rtol=1.3e-6, atol=1e-5) or says(name, "SEES_AROUND")

    def test_nothing_but_ignored_is_zero_with_zero_gradient(self, name: str, classes: int) -> None:
        logits, target = pair(classes, scale=50)
        loss = loss_of(name, logits, torch.full_like(target, 255))
        loss.backward()
        assert loss.item() == 0.0 and logits.grad is not None and not logits.grad.any()

    @pytest.mark.parametrize("fill", [0, 1])
    def test_extreme_logits_and_absent_classes(self, name: str, classes: int, fill: int) -> None:
        logits = torch.full((1, classes, 4, 4), -50.0)
        logits[:, 0, :, :2] = 50.0
        logits.requires_grad_()
        loss = loss_of(name, logits, torch.full((1, 4, 4), fill))
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, name: str, classes: int, dtype: torch.dtype) -> None:
        logits, target = pair(classes, scale=8)
        half = logits.detach().to(dtype).requires_grad_()
        expected = loss_of(name, half.detach().float(), target)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = loss_of(name, half, target)
        got.backward()
        assert got.dtype == torch.float32 and torch.equal(got, expected)
        assert half.grad.dtype == dtype and torch.isfinite(half.grad).all()

    def test_class_weights_are_relative(self, name: str, classes: int) -> None:
        """All times a constant changes nothing; one class alone does; one logit takes two weights or refuses."""
        logits, target = pair(classes)
        count = max(2, classes)
        try:
            even, threefold = (loss_of(name, logits, target, class_weights=[w] * count) for w in (1.0, 3.0))
        except RunError as error:
            assert classes == 1 and "class_weights need several classes" in str(error)
            return
        torch.testing.assert_close(even, threefold)
        if not says(name, "OWN_WEIGHTS"):
            torch.testing.assert_close(even, loss_of(name, logits, target))
        tilted = loss_of(name, logits, target, class_weights=[5.0, *[1.0] * (count - 1)])
        assert torch.isclose(tilted, even, rtol=1e-5) == (classes == 2 and says(name, "TWO_CLASSES_ALIKE"))

    def test_class_weights_that_do_not_fit(self, name: str, classes: int) -> None:
        logits, target = pair(classes)
        with pytest.raises(RunError, match="class_weights"):
            loss_of(name, logits, target, class_weights=[1.0] * (max(2, classes) + 1))
        for wrong in ([], [-1.0, 1.0], [0, 0], ["a", "b"], [True, 1.0]):
            with pytest.raises(ConfigError, match="class_weights"):
                make(name, class_weights=wrong)

    def test_one_class_index_too_many_is_named(self, name: str, classes: int) -> None:
        logits, target = pair(classes)
        target[1, 2, 2] = max(2, classes)
        with pytest.raises(RunError, match=f"classes 0 to {max(2, classes)}") as caught:
            loss_of(name, logits, target)
        assert "\n" not in str(caught.value)


def test_shapes_and_types_that_do_not_fit(name: str) -> None:
    logits, target = pair()
    loss = make(name)
    for wrong in ((logits, target[:1]), (logits, target.unsqueeze(1)), (logits[0], target), (logits, target.float())):
        with pytest.raises(RunError, match="logits"):
            loss(*_mask_only(name, *wrong))


def _mask_only(name: str, logits: torch.Tensor, target: torch.Tensor) -> Any:
    """Arguments in order but for these two."""
    outputs, targets = dressed(name, *pair())
    return (
        {**outputs, "mask": logits} if isinstance(outputs, dict) else logits,
        {**targets, "mask": target} if isinstance(targets, dict) else target,
    )


def test_does_not_alter_its_arguments(name: str) -> None:
    logits, target = pair()
    before, labels = logits.detach().clone(), target.clone()
    loss_of(name, logits, target).backward()
    assert torch.equal(logits, before) and torch.equal(target, labels)


def test_unknown_names_list_the_choices(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no loss 'jacard'; did you mean 'jaccard'\? choices: .*focal.*jaccard"):
        losses.create("jacard")
    with pytest.raises(ConfigError, match=f"loss '{name}' has no parameter 'no_such'; "):
        losses.create(name, no_such=1)


@given(
    name=st.sampled_from(NAMES),
    classes=st.integers(1, 5),
    scale=st.floats(0, 80),
    ignored=st.floats(0, 1),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_finite_for_any_input(name: str, classes: int, scale: float, ignored: float, seed: int) -> None:
    logits, target = pair(classes, seed, scale)
    logits = logits.detach().requires_grad_()
    target[torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) < ignored] = 255
    loss = loss_of(name, logits, target)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
    assert loss >= 0 or says(name, "SIGNED")


@pytest.mark.parametrize(
    ("outputs", "targets"), itertools.product([(), ("mask", "boundary")], [(), ("signed_distance",)])
)
def test_the_contract_feeds_a_loss_as_training_does(
    outputs: tuple[str, ...], targets: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads without extra targets, extra targets without heads, both, neither: each argument is a dict or it is not."""
    declared = {"OUTPUTS": outputs, "TARGETS": targets}
    monkeypatch.setattr(
        variants, "declared", lambda family, name, constant, default=None: declared.get(constant, default)
    )
    given: list[Any] = []
    objective = Objective({"name": "boundary_distance", "params": {}}, 1, torch.device("cpu"))
    objective.loss = lambda *arguments: given.extend(arguments) or torch.zeros(())  # type: ignore[assignment]
    logits, target = pair()
    objective({"mask": logits, "boundary": logits}, {"mask": target, "signed_distance": logits})
    for ours, training in zip(dressed("boundary_distance", logits, target), given, strict=True):
        keys = [list(one) if isinstance(one, dict) else None for one in (ours, training)]
        assert keys[0] == keys[1]
