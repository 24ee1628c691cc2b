"""Any architecture and encoder of segmentation-models-pytorch 0.6, passed on by name."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as library
import torch
from torch import nn

from pipeline.errors import ConfigError, RunError, choices
from pipeline.models import _smp

SMALL = {"encoder": "mobilenet_v2"}


def build(
    *,
    in_channels: int,
    classes: int,
    arch: str = "Unet",
    encoder: str = "resnet34",
    weights: str | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Network `arch` of segmentation-models-pytorch with a classification network as its encoder.

    Args:
        in_channels: bands of the image.
        classes: logits per pixel.
        arch: a class of the library, such as Unet, FPN or DeepLabV3Plus.
        encoder: an encoder of the library, or ``tu-<name>`` for one of timm.
        weights: pre-trained weights of the encoder, such as ``imagenet`` (timm's: only that, which stands for the
            tag in the encoder's name); None starts from random ones. They are taken from the Hugging Face cache or
            fetched into it.
        kwargs: further parameters of the architecture, such as ``decoder_channels``; for ``tu-`` encoders also those
            of timm.

    Returns:
        A module from images [N, in_channels, H, W] to logits [N, classes, H, W]; RunError (when called) for an image
        whose size the network cannot take.

    Raises:
        ConfigError: for an unknown architecture, encoder, parameter or set of weights, and for values that the
            library refuses.
        RunError: when the weights are neither in the cache nor can be fetched.
    """
    _smp.check(arch=arch, encoder=encoder, weights=weights, **kwargs)
    _check_timm(encoder)
    made: type[nn.Module] = getattr(library, arch)
    try:
        with _quiet_hub():
            network = made(
                encoder_name=encoder,
                encoder_weights=True if weights and encoder not in library.encoders.encoders else weights,
                in_channels=in_channels,
                classes=classes,
                **kwargs,
            )
    except OSError as error:
        if weights is None:
            raise
        raise RunError(_place_by_hand(encoder, weights)) from error
    except (TypeError, ValueError, KeyError, RuntimeError, IndexError, AssertionError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"model smp: {arch} with encoder {encoder!r} cannot be made: {text}") from error
    network.register_forward_pre_hook(functools.partial(_check_image, in_channels))
    return network


def _check_timm(encoder: str) -> None:
    if encoder in library.encoders.encoders or library.encoders.is_equivalent_to_timm_universal(encoder):
        return
    import timm

    if not (encoder.startswith("tu-") and timm.is_model(encoder.removeprefix("tu-"))):
        known = [f"tu-{name}" for name in timm.list_models(f"{encoder[3:6]}*")] or ["tu-<name of a timm model>"]
        raise ConfigError(f"model smp: no encoder {encoder!r}; {choices(encoder, known)}")


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the hub's line per retry out of the log: one error at the end says it all."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _place_by_hand(encoder: str, weights: str) -> str:
    from huggingface_hub import constants

    problem = f"model smp: cannot fetch the weights {weights!r} of encoder {encoder!r}"
    if encoder not in library.encoders.encoders:
        way = "name a downloaded file with `pretrained_cfg_overlay: {file: <path>.safetensors}`"
        return f"{problem}; without a network, {way}, or set `weights: null`"
    source = library.encoders.encoders[encoder]["pretrained_settings"][weights]
    folder = Path(constants.HF_HUB_CACHE) / f"models--{source['repo_id'].replace('/', '--')}"
    page = f"https://huggingface.co/{source['repo_id']}/tree/{source['revision']}"
    return (
        f"{problem}; place config.json and model.safetensors from {page} into the folder "
        f"{folder / 'snapshots' / source['revision']}, or set `weights: null`"
    )


def _check_image(in_channels: int, network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    bands, height, width = inputs[0].shape[1:]
    if bands != in_channels:
        raise RunError(f"model smp: the image has {bands} bands, the network was made for {in_channels}")
    stride: int = network.encoder.output_stride  # type: ignore[union-attr,assignment]
    if network.requires_divisible_input_shape and (height % stride or width % stride):
        raise RunError(
            f"model smp: image size {height} × {width} px is no multiple of {stride}, as {type(network).__name__} needs"
        )
