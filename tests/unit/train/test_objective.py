"""What a step minimises: auxiliary outputs, heads, precision, and the weights under which validation compares."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline import losses
from pipeline.errors import RunError
from pipeline.train.objective import Objective

CPU = torch.device("cpu")


def objective(name: str, epochs: int = 10, **params: object) -> Objective:
    return Objective({"name": name, "params": params}, epochs, CPU)


def logits(seed: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, 6, 6, generator=torch.Generator().manual_seed(seed))


MASKS = np.random.default_rng(0).integers(0, 3, (2, 6, 6)).astype(np.uint8)


def tensors(extra: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    found = {"image": torch.zeros(2, 3, 6, 6), "mask": torch.from_numpy(MASKS).long()}
    return found | {kind: torch.from_numpy(array).float() for kind, array in extra.items()}


def test_deep_supervision_is_the_mean_over_the_mask_and_every_auxiliary_output() -> None:
    wanted = objective("focal")
    targets = tensors({})
    output = {"mask": logits(0), "aux_1": logits(1), "aux_2": logits(2)}
    focal = losses.create("focal")
    parts = [focal(tensor, targets["mask"]).item() for tensor in output.values()]
    assert wanted(output, targets).item() == pytest.approx(np.mean(parts), rel=1e-6)
    assert wanted(output["mask"], targets).item() == parts[0]
    heads = {"mask": output["mask"], "colour": logits(3)}
    assert wanted(heads, targets).item() == parts[0]


def test_a_loss_of_heads_gets_them_with_each_auxiliary_mask_in_turn() -> None:
    wanted = objective("multi_task")
    extra = {"boundary": (MASKS[:, None] == [[[0]], [[1]], [[2]]]).astype(np.uint8)}
    extra["distance"] = extra["boundary"].astype(np.float16) / 2
    extra["colour"] = np.random.default_rng(1).random((2, 3, 6, 6)).astype(np.float16)
    targets = tensors(extra)
    heads = {"boundary": logits(1), "distance": logits(2), "colour": logits(3)}
    output = {"mask": logits(0), **heads, "aux_1": logits(4)}
    loss = losses.create("multi_task")
    parts = [loss({"mask": output[key], **heads}, targets).item() for key in ("mask", "aux_1")]
    assert wanted(output, targets).item() == pytest.approx(np.mean(parts), rel=1e-6) and parts[0] != parts[1]
    with pytest.raises(RunError, match="the network gives no boundary"):
        wanted(logits(0), targets)


def test_logits_are_float32_whatever_the_network_gave() -> None:
    wanted = objective("jaccard")
    targets = tensors({})
    half = logits(0).to(torch.bfloat16)
    assert torch.equal(wanted(half, targets), wanted(half.float(), targets))
    assert torch.equal(wanted({"mask": half, "aux_1": half}, targets), wanted(half.float(), targets))


def test_validation_has_the_weights_of_the_last_epoch() -> None:
    """So that its losses compare between epochs, and early stopping means something."""
    sums = {"terms": ["jaccard", "focal"], "schedule": "rebalance", "every": 2}
    wanted = objective("weighted_sum", epochs=5, **sums)
    targets = tensors({})
    seen = []
    for epoch in range(5):
        wanted.on_epoch(epoch)
        assert wanted.changing_weight == pytest.approx([0.5, 0.5, 0.7, 0.7, 0.9][epoch])
        wanted.for_validation()
        assert wanted.changing_weight == pytest.approx(0.9)
        seen.append(wanted(logits(0), targets).item())
    assert len(set(seen)) == 1


def test_a_search_validates_under_its_start() -> None:
    wanted = objective("weighted_sum", schedule="search", start=0.4)
    wanted.on_epoch(9, 0.9)
    assert wanted.changing_weight == pytest.approx(0.9)
    wanted.for_validation()
    assert wanted.changing_weight == pytest.approx(0.4)


def test_a_plain_loss_has_no_weight_that_changes() -> None:
    plain = objective("focal")
    plain.on_epoch(3)
    plain.for_validation()
    assert plain.changing_weight is None and plain.derive == {}
