"""What every network promises, whatever its file."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import models, variants
from pipeline.errors import ConfigError

SMALL = {"unet": {"width": 4}, "smp": {"encoder": "mobilenet_v2"}}


@pytest.fixture(params=variants.names("models"))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def make(name: str, seed: int = 0, **sizes: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return models.create(name, **sizes, **SMALL.get(name, {}))


class TestEveryModel:
    @pytest.mark.parametrize(("bands", "classes"), [(3, 4), (5, 2), (1, 1)])
    def test_logits_have_the_image_size(self, name: str, bands: int, classes: int) -> None:
        network = make(name, in_channels=bands, classes=classes).eval()
        with torch.no_grad():
            assert network(torch.rand(2, bands, 64, 96)).shape == (2, classes, 64, 96)

    def test_every_parameter_learns(self, name: str) -> None:
        network = make(name).train()
        (network(torch.rand(2, 3, 64, 64)) ** 2).mean().backward()
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key

    def test_logits_are_no_probabilities(self, name: str) -> None:
        logits = make(name).train()(torch.randn(2, 3, 64, 64) * 10)
        assert logits.min() < 0 and not torch.allclose(logits.sum(1), torch.ones(()))

    def test_chips_do_not_see_each_other_in_eval_mode(self, name: str) -> None:
        network, images = make(name).eval(), torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            together, alone = network(images), network(images[:1])
        torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-4)

    def test_the_seed_decides_the_weights(self, name: str) -> None:
        first, again, other = (make(name, seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert any(not torch.equal(first[key], other[key]) for key in first)

    def test_safetensors_round_trip_is_bit_equal(self, name: str, tmp_path) -> None:
        network, images = make(name), torch.rand(2, 3, 64, 64)
        network.train()(images)  # running statistics must travel too
        save_file(network.state_dict(), tmp_path / "weights.safetensors")
        copy = make(name, seed=9)
        copy.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
        with torch.no_grad():
            assert torch.equal(copy.eval()(images), network.eval()(images))

    def test_channels_last_gives_the_same(self, name: str) -> None:
        network, images = make(name).eval(), torch.rand(2, 3, 64, 64)
        with torch.no_grad():
            plain = network(images)
            last = network.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
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
