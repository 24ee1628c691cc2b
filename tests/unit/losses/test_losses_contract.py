"""What every loss promises, whatever its file."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import losses, variants
from pipeline.errors import ConfigError, RunError

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


@pytest.mark.parametrize("classes", [1, 2, 4])
class TestEveryLoss:
    def test_scalar_float32_with_finite_gradient(self, name: str, classes: int) -> None:
        logits, target = pair(classes)
        loss = losses.create(name)(logits, target)
        loss.backward()
        assert loss.shape == () and loss.dtype == torch.float32 and loss > 0
        assert torch.isfinite(logits.grad).all() and logits.grad.any()

    def test_gradcheck(self, name: str, classes: int) -> None:
        logits, target = pair(classes, dtype=torch.float64)
        logits = logits.detach().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: losses.create(name)(x, target), (logits,))

    def test_right_beats_wrong(self, name: str, classes: int) -> None:
        _, target = pair(classes)
        known = target.masked_fill(target == 255, 0)
        if classes == 1:
            right = (known.float() * 2 - 1).unsqueeze(1) * 5
        else:
            right = torch.nn.functional.one_hot(known, classes).permute(0, 3, 1, 2).float() * 10
        loss = losses.create(name)
        assert loss(right, target) < 0.05 * loss(-right, target)

    def test_ignored_pixels_have_no_say(self, name: str, classes: int) -> None:
        logits, target = pair(classes)
        losses.create(name)(logits, target).backward()
        assert not logits.grad[0, :, 0].any() and logits.grad[0, :, 1].any()
        other = logits.detach().clone()
        other[0, :, 0] = 40
        loss = losses.create(name)
        assert torch.equal(loss(other, target), loss(logits, target))

    def test_cropping_ignored_pixels_away_changes_nothing(self, name: str, classes: int) -> None:
        logits, target = pair(classes)
        target[:, :2] = 255
        loss = losses.create(name)
        torch.testing.assert_close(loss(logits, target), loss(logits[:, :, 2:], target[:, 2:]))

    def test_nothing_but_ignored_is_zero_with_zero_gradient(self, name: str, classes: int) -> None:
        logits, target = pair(classes, scale=50)
        loss = losses.create(name)(logits, torch.full_like(target, 255))
        loss.backward()
        assert loss.item() == 0.0 and logits.grad is not None and not logits.grad.any()

    @pytest.mark.parametrize("fill", [0, 1])
    def test_extreme_logits_and_absent_classes(self, name: str, classes: int, fill: int) -> None:
        logits = torch.full((1, classes, 4, 4), -50.0)
        logits[:, 0, :, :2] = 50.0
        logits.requires_grad_()
        loss = losses.create(name)(logits, torch.full((1, 4, 4), fill))
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, name: str, classes: int, dtype: torch.dtype) -> None:
        logits, target = pair(classes, scale=8)
        half = logits.detach().to(dtype).requires_grad_()
        loss = losses.create(name)
        expected = loss(half.detach().float(), target)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = loss(half, target)
        got.backward()
        assert got.dtype == torch.float32 and torch.equal(got, expected)
        assert half.grad.dtype == dtype and torch.isfinite(half.grad).all()

    def test_one_class_index_too_many_is_named(self, name: str, classes: int) -> None:
        logits, target = pair(classes)
        target[1, 2, 2] = max(2, classes)
        with pytest.raises(RunError, match=f"classes 0 to {max(2, classes)}") as caught:
            losses.create(name)(logits, target)
        assert "\n" not in str(caught.value)


def test_shapes_and_types_that_do_not_fit(name: str) -> None:
    logits, target = pair()
    for wrong in ((logits, target[:1]), (logits, target.unsqueeze(1)), (logits[0], target), (logits, target.float())):
        with pytest.raises(RunError, match="logits"):
            losses.create(name)(*wrong)


def test_does_not_alter_its_arguments(name: str) -> None:
    logits, target = pair()
    before, labels = logits.detach().clone(), target.clone()
    losses.create(name)(logits, target).backward()
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
    loss = losses.create(name)(logits, target)
    loss.backward()
    assert torch.isfinite(loss) and loss >= 0 and torch.isfinite(logits.grad).all()
