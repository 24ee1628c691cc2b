"""Networks under torch.compile: traced in one piece, and the numbers of plain PyTorch, on the CPU and on a GPU."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch

from pipeline import models, variants

TINY: dict[str, dict[str, Any]] = {
    "unet": {"width": 4, "depth": 2},
    "attention_unet": {"width": 4, "depth": 2},
    "unet_plus_plus": {"width": 4, "depth": 2},
}
needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")),
    reason="torch.compile makes C++ for the CPU: no g++ or clang++",
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(autouse=True)
def forget() -> None:
    torch.compiler.reset()


def make(name: str, params: dict[str, Any]) -> torch.nn.Module:
    torch.manual_seed(0)
    return models.create(name, 3, 2, **params)


def all_of(outputs: Any) -> list[torch.Tensor]:
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


def step(network: torch.nn.Module, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """One training step's outputs and its loss, gradients left in the parameters."""
    outputs = all_of(network(images))
    loss = torch.stack([output.float().square().mean() for output in outputs]).sum()
    loss.backward()
    return outputs, loss


def same_step(name: str, params: dict[str, Any], size_px: int, **options: Any) -> None:
    """Assert that outputs, gradients and running statistics are those of the network that is not compiled."""
    plain, twin = make(name, params).train(), make(name, params).train()
    images = torch.rand(2, 3, size_px, size_px)
    expected, _ = step(plain, images)
    outputs, _ = step(torch.compile(twin, fullgraph=True, **options), images)
    for one, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    for (key, one), other in zip(twin.named_parameters(), plain.parameters(), strict=True):
        scale = max(float(other.grad.abs().max()), 1e-3)
        assert float((one.grad - other.grad).abs().max()) < 1e-3 * scale, key
    for (key, buffer), other in zip(twin.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, atol=1e-5, rtol=1e-4, msg=key)


def test_a_network_is_traced_in_one_piece() -> None:
    """Without a graph break at the checks of sizes and bands; no C++ is made here."""
    same_step("unet", TINY["unet"], 16, backend="aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", variants.names("models"))
def test_every_network_is_traced_in_one_piece(name: str) -> None:
    params = {**variants.declared("models", name, "SMALL", {}), **TINY.get(name, {})}
    if "dropout" in variants.parameters("models", name):
        params["dropout"] = 0.0
    same_step(name, params, 64, backend="aot_eager")


@needs_compiler
@pytest.mark.parametrize("name", TINY)
def test_a_compiled_step_is_the_plain_one(name: str) -> None:
    same_step(name, TINY[name], 16)


@needs_compiler
def test_compiled_logits_in_eval_mode_are_the_plain_ones() -> None:
    network = make("unet", TINY["unet"]).eval()
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.compile(network, fullgraph=True)(images), network(images), atol=1e-5, rtol=1e-4
        )


@needs_gpu
@pytest.mark.slow
@pytest.mark.parametrize("name", variants.names("models"))
def test_every_network_compiled_in_bf16_on_a_gpu(name: str) -> None:
    """At its own size and defaults; the loss is that of the plain network but for bf16's eight bits."""
    params = {"dropout": 0.0} if "dropout" in variants.parameters("models", name) else {}
    images = torch.rand(2, 3, 256, 256, device="cuda").to(memory_format=torch.channels_last)
    losses = []
    for compiled in (False, True):
        network = make(name, params).cuda().to(memory_format=torch.channels_last).train()
        with torch.autocast("cuda", torch.bfloat16):
            _, loss = step(torch.compile(network, fullgraph=True) if compiled else network, images)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        losses.append(float(loss))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
