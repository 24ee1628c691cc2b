"""Parts of a network that learn while others stand still, to the bit."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline import models, variants
from pipeline.errors import RunError
from pipeline.schedules._stage import Part
from pipeline.train.freezing import encoder_of, freeze
from pipeline.train.optimizers import make_optimizer

SETTINGS = {"lr": 0.05, "weight_decay": 0.1, "momentum": 0.9}
PAIR = ("weight", "bias")
NORM = nn.modules.batchnorm._BatchNorm


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return models.create(name, classes=2, **variants.declared("models", name, "SMALL", {}))


def copied(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def changed(network: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}


def loss_of(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    output = network(images)
    outputs = list(output.values()) if isinstance(output, dict) else [output]
    return torch.stack([(one**2).mean() for one in outputs]).sum()


def epoch(network: nn.Module, part: Part, optimizer: torch.optim.Optimizer, encoder: Any, average: Any = None) -> None:
    """Three steps as the engine takes them, then a look in eval mode."""
    network.train()
    freeze(network, part, encoder)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        loss_of(network, torch.rand(4, 3, 32, 32)).backward()
        optimizer.step()
        if average is not None:
            average.update_parameters(network)
    network.eval()


@pytest.fixture
def small() -> nn.Module:
    return make("unet")


def split_names(network: nn.Module) -> tuple[set[str], set[str], set[str]]:
    """State of the encoder's norms, of the rest of the encoder, of everything else, by its names alone."""
    norms = {name for name, module in network.named_modules() if isinstance(module, NORM)}
    inside = {name for name in network.state_dict() if name.startswith("encoder.")}
    of_norms = {name for name in inside if name.rpartition(".")[0] in norms}
    return of_norms, inside - of_norms, set(network.state_dict()) - inside


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop", "sgd"])
def test_what_stands_still_is_bit_equal_with_weight_decay_momentum_and_average(
    small: nn.Module, optimizer: str
) -> None:
    """After epochs in which all learned, so that moments and gradients exist; then everything learns again."""
    norms, convolutions, rest = split_names(small)
    settings = SETTINGS | {"optimizer": optimizer}
    made = make_optimizer(small, settings, torch.device("cpu"))
    average = AveragedModel(small, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    epoch(small, "all", made, ("encoder",), average)
    average.module.load_state_dict(small.state_dict())  # where an average of what stands still comes to
    before, averaged = copied(small), copied(average.module)
    for _ in range(2):
        epoch(small, "decoder", made, ("encoder",), average)
    assert changed(small, before) == rest and changed(average.module, averaged) <= rest | {"n_averaged"}
    before, averaged = copied(small), copied(average.module)
    epoch(small, "decoder_and_norms", made, ("encoder",), average)
    assert changed(small, before) == rest | norms
    assert not changed(average.module, averaged) & convolutions
    before = copied(small)
    epoch(small, "all", made, ("encoder",), average)
    assert changed(small, before) == norms | convolutions | rest


def test_the_average_of_what_stands_still_from_the_start_is_what_it_was(small: nn.Module) -> None:
    made = make_optimizer(small, SETTINGS | {"optimizer": "adamw"}, torch.device("cpu"))
    average = AveragedModel(small, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    norms, convolutions, _ = split_names(small)
    before = copied(small)
    epoch(small, "decoder", made, ("encoder",), average)
    assert not changed(average.module, before) & (norms | convolutions)


def test_norms_that_stand_still_are_in_eval_mode_and_the_rest_in_training_mode(small: nn.Module) -> None:
    freeze(small.train(), "decoder")
    modes = {name: module.training for name, module in small.named_modules() if isinstance(module, NORM)}
    assert {name for name, training in modes.items() if training} == {n for n in modes if not n.startswith("encoder.")}
    freeze(small.train(), "decoder_and_norms")
    assert all(module.training for module in small.modules())


def test_calls_on_end_are_one_and_any_part_may_follow_any(small: nn.Module) -> None:
    def learning(part: Part, times: int) -> set[str]:
        small.train()
        for _ in range(times):
            freeze(small, part)
        return {name for name, parameter in small.named_parameters() if parameter.requires_grad}

    parts: list[Part] = ["decoder", "decoder_and_norms", "all"]
    alone = {part: learning(part, 1) for part in parts}
    assert (
        alone["decoder"] < alone["decoder_and_norms"] < alone["all"] == {name for name, _ in small.named_parameters()}
    )
    for part in [part for pair in itertools.permutations(parts, 2) for part in pair]:
        assert learning(part, 2) == alone[part]


def test_a_weight_that_the_network_itself_excludes_never_learns(small: nn.Module) -> None:
    fixed = small.encoder[0][0].weight
    fixed.requires_grad_(False)
    for part in ("decoder", "decoder_and_norms", "all"):
        freeze(small.train(), part)
        assert not fixed.requires_grad


@pytest.mark.parametrize("name", variants.names("models"))
def test_every_model_that_names_its_encoder_has_one_and_a_decoder(name: str) -> None:
    """Some weights stand still, the others all have a gradient, and the outputs come from what learns."""
    encoder = encoder_of(name)
    assert encoder, "all of ours do; a model of one's own without parts may leave ENCODER out"
    network = make(name).train()
    freeze(network, "decoder", encoder)
    loss_of(network, torch.rand(2, 3, 64, 64)).backward()
    learning = {key: parameter.grad for key, parameter in network.named_parameters() if parameter.requires_grad}
    assert all(gradient is not None for gradient in learning.values())
    still = {key: parameter for key, parameter in network.named_parameters() if not parameter.requires_grad}
    assert len(still) > 3 and len(learning) > 3 and all(parameter.grad is None for parameter in still.values())
    norms = {f"{key}.{own}" for key, module in network.named_modules() if isinstance(module, NORM) for own in PAIR}
    network.train()
    freeze(network, "decoder_and_norms", encoder)
    assert {key for key, parameter in network.named_parameters() if not parameter.requires_grad} == set(still) - norms


@pytest.mark.parametrize("mode", ["serial", "parallel"])
def test_a_double_unet_has_two_encoders(mode: str) -> None:
    network = models.create("double_unet", mode=mode, width=4, depth=2)
    freeze(network.train(), "decoder", encoder_of("double_unet"))
    still = {key.rpartition(".encoder.")[0] for key, p in network.named_parameters() if not p.requires_grad}
    assert still == ({"first", "second"} if mode == "serial" else {"whole", "local"})


def test_the_encoder_of_a_nested_unet_is_its_first_column() -> None:
    network = make("unet_plus_plus")
    freeze(network.train(), "decoder", encoder_of("unet_plus_plus"))
    still = {key.split(".")[1] for key, p in network.named_parameters() if not p.requires_grad}
    assert still == {"0_0", "1_0", "2_0"}


@pytest.mark.parametrize("encoder", [(), ("encodr",), ("node.*_0",)])
def test_a_network_without_that_part_is_one_line(small: nn.Module, encoder: tuple[str, ...]) -> None:
    with pytest.raises(RunError, match="part 'decoder' of a UNet: it has no encoder") as caught:
        freeze(small.train(), "decoder", encoder)
    assert "\n" not in str(caught.value)
    freeze(small, "all", encoder)
    assert all(parameter.requires_grad for parameter in small.parameters())
