"""What every network promises, whatever its file.

A network's own file may declare SMALL: parameters of a copy small enough for these tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import models, variants
from pipeline.errors import ConfigError, RunError
from pipeline.train.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(params=variants.names("models"))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def make(name: str, seed: int = 0, **sizes: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return models.create(name, **sizes, **variants.declared("models", name, "SMALL", {}))


def mask_of(outputs: Any) -> torch.Tensor:
    """The mask's logits: all that most networks give, the first of a multi-task one's dict."""
    if isinstance(outputs, dict):
        assert next(iter(outputs)) == "mask"
        return outputs["mask"]
    return outputs


def all_of(outputs: Any) -> list[torch.Tensor]:
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


@contextmanager
def deterministic() -> Iterator[None]:
    """As the engine trains on the CPU: an operation that has no deterministic form raises."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


class TestEveryModel:
    @pytest.mark.parametrize(("bands", "classes"), [(3, 4), (5, 2), (1, 1)])
    def test_logits_have_the_image_size(self, name: str, bands: int, classes: int) -> None:
        network = make(name, in_channels=bands, classes=classes).eval()
        with torch.no_grad():
            assert mask_of(network(torch.rand(2, bands, 64, 96))).shape == (2, classes, 64, 96)

    def test_a_size_that_does_not_fit_is_padded_or_one_line(self, name: str) -> None:
        network = make(name).eval()
        for height, width in ((63, 64), (50, 70)):
            try:
                with torch.no_grad():
                    shape = mask_of(network(torch.rand(1, 3, height, width))).shape
            except RunError as error:
                assert f"{height} × {width}" in str(error) and name in str(error) and "\n" not in str(error)
            else:
                assert shape == (1, 4, height, width)

    def test_wrong_bands_are_one_line(self, name: str) -> None:
        with pytest.raises(RunError, match=rf"model {name}: .*5 bands.*3") as caught:
            make(name)(torch.rand(1, 5, 64, 64))
        assert "\n" not in str(caught.value)

    def test_every_parameter_learns(self, name: str) -> None:
        network = make(name).train()
        sum((output**2).mean() for output in all_of(network(torch.rand(2, 3, 64, 64)))).backward()
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
            assert parameter.ndim < 2 or parameter.grad.any(), key  # a shift before a norm may cancel, weights may not

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_a_few_steps_lower_the_loss(self, name: str, precision: str) -> None:
        """Two classes told apart by brightness; batch norm in training mode, autocast as the engine does it."""
        network = make(name, classes=2).train()
        dark = torch.zeros(2, 64, 64, dtype=torch.int64)
        dark[:, :, 32:] = 1
        images = dark.unsqueeze(1) + torch.zeros(2, 3, 64, 64) + 0.1 * torch.randn(2, 3, 64, 64)
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        losses = []
        for _ in range(6):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logits = mask_of(network(images))
            loss = torch.nn.functional.cross_entropy(logits.float(), dark)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.9 * losses[0] and all(torch.isfinite(torch.tensor(losses)))

    def test_logits_are_no_probabilities(self, name: str) -> None:
        logits = mask_of(make(name).train()(torch.randn(2, 3, 64, 64) * 10))
        assert logits.min() < 0 and not torch.allclose(logits.sum(1), torch.ones(()))

    def test_chips_do_not_see_each_other_in_eval_mode(self, name: str) -> None:
        network, images = make(name).eval(), torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            together, alone = all_of(network(images)), all_of(network(images[:1]))
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one[:1], other, atol=1e-5, rtol=1e-4)

    def test_the_seed_decides_the_weights(self, name: str) -> None:
        first, again, other = (make(name, seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert any(not torch.equal(first[key], other[key]) for key in first)

    def test_safetensors_round_trip_is_bit_equal(self, name: str, tmp_path: Path) -> None:
        network, images = make(name), torch.rand(2, 3, 64, 64)
        network.train()(images)  # running statistics must travel too
        save_file(network.state_dict(), tmp_path / "weights.safetensors")
        copy = make(name, seed=9)
        copy.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
        with torch.no_grad():
            pairs = zip(all_of(copy.eval()(images)), all_of(network.eval()(images)), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)

    def test_a_checkpoint_of_a_training_in_channels_last_is_bit_equal(self, name: str, tmp_path: Path) -> None:
        network = make(name, in_channels=5, classes=3).to(memory_format=torch.channels_last)
        images = torch.rand(2, 5, 64, 64).to(memory_format=torch.channels_last)
        network.train()(images)
        params = variants.declared("models", name, "SMALL", {})
        facts = {"model": {"name": name, "params": params}, "in_channels": 5, "classes": ["a", "b", "c"]}
        facts |= {"offset": [0.0] * 5, "scale": [1.0] * 5}
        save_checkpoint(tmp_path / "best.safetensors", network.state_dict(), facts)
        copy, _ = load_checkpoint(tmp_path / "best.safetensors")
        saved, loaded = network.state_dict(), copy.state_dict()
        assert saved.keys() == loaded.keys() and all(torch.equal(saved[key], loaded[key]) for key in saved)

    def test_a_step_is_a_function_of_the_seed(self, name: str) -> None:
        """Forward and backward, bit by bit, by deterministic algorithms alone."""
        gradients = []
        with deterministic():
            for _ in range(2):
                network = make(name, seed=3, classes=2).to(memory_format=torch.channels_last).train()
                torch.manual_seed(4)
                images = torch.rand(2, 3, 64, 64).to(memory_format=torch.channels_last)
                sum(output.float().square().mean() for output in all_of(network(images))).backward()
                gradients.append([parameter.grad for parameter in network.parameters()])
        assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))

    def test_outputs_besides_the_mask_have_its_size_and_auxiliary_ones_are_for_training(self, name: str) -> None:
        network, images = make(name), torch.rand(2, 3, 64, 64)
        for mode in (True, False):
            with torch.no_grad():
                outputs = network.train(mode)(images)
            assert all(output.shape[::2] == (2, 64) and output.shape[3] == 64 for output in all_of(outputs))
            if isinstance(outputs, dict):
                assert mode or not [key for key in outputs if key.startswith("aux_")]

    def test_channels_last_gives_the_same(self, name: str) -> None:
        network, images = make(name).eval(), torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            plain = mask_of(network(images))
            last = network.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
            last = mask_of(last)
        torch.testing.assert_close(last, plain, atol=1e-4, rtol=1e-3)

    def test_unknown_parameter_is_one_line(self, name: str) -> None:
        with pytest.raises(ConfigError) as caught:
            models.create(name, no_such_thing=1)
        assert "no_such_thing" in str(caught.value) and "\n" not in str(caught.value)

    @pytest.mark.parametrize("sizes", [{"classes": 0}, {"in_channels": 0}, {"classes": True}, {"in_channels": 2.5}])
    def test_impossible_sizes_are_named(self, name: str, sizes: dict) -> None:
        with pytest.raises(ConfigError, match=next(iter(sizes))):
            models.create(name, **sizes)


def test_unknown_model_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"no model 'unett'; did you mean 'unet'\? choices: .*unet"):
        models.create("unett")
