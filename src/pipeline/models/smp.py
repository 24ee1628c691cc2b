"""Any architecture and encoder of segmentation-models-pytorch 0.6, passed on by name."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as library
import torch
from safetensors import SafetensorError
from torch import nn

from pipeline.errors import ConfigError, RunError, choices
from pipeline.models import _smp

ENCODER = ("encoder",)
SMALL = {"encoder": "mobilenet_v2"}
_SIZE = ("img_size", "dynamic_img_size", "strict_img_size")  # timm's: which sizes of images an encoder takes
_SHOWN_CHARACTERS = 300  # of an error of the library: one about a weights file may name every tensor


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

    Encoders of timm that are made for one size of images but can take any (vision transformers, Swin) take any here,
    unless `kwargs` says otherwise (``dynamic_img_size``, ``strict_img_size``, ``img_size``).

    Args:
        in_channels: bands of the image. Pre-trained weights of the first convolution are repeated over the bands and
            scaled by 3 / bands; one band takes their sum.
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
        RunError: when the weights are neither in the cache nor can be fetched, or their file is damaged.
    """
    _smp.check(arch=arch, encoder=encoder, weights=weights, **kwargs)
    _check_timm(encoder)
    make = functools.partial(
        _architecture(arch),
        encoder_name=encoder,
        in_channels=in_channels,
        classes=classes,
        **_any_size(encoder, kwargs),
        **kwargs,
    )
    of_timm = encoder not in library.encoders.encoders
    before = torch.get_rng_state()
    try:
        with _quiet_hub():
            network: nn.Module = make(encoder_weights=True if weights and of_timm else weights)
        if weights and of_timm:
            _check_loaded(network, make, before)
    except (OSError, SafetensorError) as error:
        if weights is None:
            raise
        raise RunError(_weights_problem(encoder, weights, kwargs, error)) from error
    except (TypeError, ValueError, KeyError, RuntimeError, IndexError, AssertionError) as error:
        if weights is not None and "loading state_dict" in str(error):
            raise RunError(_weights_problem(encoder, weights, kwargs, error)) from error
        raise ConfigError(f"model smp: {arch} with encoder {encoder!r} cannot be made: {_reason(error)}") from error
    return network


@functools.cache
def _architecture(name: str) -> type[nn.Module]:
    """The library's class with errors of one line; its weights keep their names, so that checkpoints are alike."""
    base: type[nn.Module] = getattr(library, name)

    class Checked(base):  # type: ignore[misc, valid-type]
        def __init__(self, *, encoder_name: str, in_channels: int, **kwargs: Any) -> None:
            super().__init__(encoder_name=encoder_name, in_channels=in_channels, **kwargs)
            self.encoder_name = encoder_name
            self.in_channels = in_channels

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            _check_image(self, image)
            try:
                logits: torch.Tensor = super().forward(image)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, AssertionError) as error:
                count, _, height, width = image.shape
                hint = f"; an encoder for one size of images may take `img_size: [{height}, {width}]`"
                raise RunError(
                    f"model smp: {name} with encoder {self.encoder_name!r} fails on a batch of {count}, "
                    f"images of {height} × {width} px: {_line(error)}{hint if self.encoder_name[:3] == 'tu-' else ''}"
                ) from error
            return logits

    Checked.__name__ = Checked.__qualname__ = name
    return Checked


def _check_image(network: nn.Module, image: torch.Tensor) -> None:
    if image.ndim != 4:
        raise RunError(f"model smp: the image has the shape {list(image.shape)}, not [N, {network.in_channels}, H, W]")
    bands, height, width = image.shape[1:]
    if bands != network.in_channels:
        raise RunError(f"model smp: the image has {bands} bands, the network was made for {network.in_channels}")
    stride: int = network.encoder.output_stride  # type: ignore[union-attr,assignment]
    if network.requires_divisible_input_shape and (height % stride or width % stride):
        raise RunError(
            f"model smp: image size {height} × {width} px is no multiple of {stride}, as {type(network).__name__} needs"
        )


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]} …"


def _reason(error: Exception) -> str:
    """The library's words for why two parts do not go together, and what they leave out."""
    text = _line(error)
    if not text or "output_stride" in text:
        return f"the encoder cannot be dilated, as this architecture needs{f' ({text})' if text else ''}"
    if "downsampling pattern" in text:
        return f"{text} A vision transformer goes with `arch: DPT`"
    return text


# --- encoders of timm --------------------------------------------------------------------------------------------


def _check_timm(encoder: str) -> None:
    if encoder in library.encoders.encoders or library.encoders.is_equivalent_to_timm_universal(encoder):
        return
    import timm

    if not encoder.startswith("tu-"):
        known = [f"tu-{name}" for name in timm.list_models(f"{encoder[5:8]}*")] or ["tu-<name of a timm model>"]
        raise ConfigError(f"model smp: no encoder {encoder!r}; {choices(encoder, known)}")
    base, dot, _ = encoder.removeprefix("tu-").partition(".")
    tagged = [f"tu-{name}" for name in timm.list_models(f"{base}.*", pretrained=True)]
    if dot and encoder not in tagged:
        raise ConfigError(f"model smp: no encoder {encoder!r}; {choices(encoder, [f'tu-{base}', *tagged])}")


def _any_size(encoder: str, kwargs: dict[str, Any]) -> dict[str, bool]:
    """The parameter with which an encoder of timm takes images of any size, where it has one."""
    if not encoder.startswith("tu-") or any(key in kwargs for key in _SIZE):
        return {}
    import timm

    with torch.device("meta"):
        made = type(timm.create_model(encoder.removeprefix("tu-")))
    return {"dynamic_img_size": True} if "dynamic_img_size" in inspect.signature(made).parameters else {}


# --- pre-trained weights -----------------------------------------------------------------------------------------


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


def _check_loaded(network: nn.Module, make: Callable[..., nn.Module], state: torch.Tensor) -> None:
    """RuntimeError for a layer that still has the random weights of `state`: timm takes a file that lacks layers."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(state)
        begin = dict(make(encoder_weights=None).encoder.named_parameters())  # type: ignore[union-attr]
    for name, weight in network.encoder.named_parameters():  # type: ignore[union-attr]
        matrix = name.endswith(".weight") and weight.ndim > 1
        if matrix and torch.equal(weight, begin[name]) and weight.min() < weight.max():
            raise RuntimeError(f"loading state_dict: the file lacks {name.removeprefix('model.')}")


def _weights_problem(encoder: str, weights: str, kwargs: dict[str, Any], error: Exception) -> str:
    """One line for weights that are missing, truncated or another network's, with the way out."""
    named = f"the weights {weights!r} of encoder {encoder!r}"
    overlay = kwargs.get("pretrained_cfg_overlay")
    if isinstance(overlay, dict) and overlay.get("file"):
        if not Path(str(overlay["file"])).is_file():
            return f"model smp: {named}: there is no file {overlay['file']}, which pretrained_cfg_overlay names"
        return f"model smp: {named}: {overlay['file']} is damaged or not theirs: {_line(error)}"
    folder, by_hand = _where(encoder, weights)
    if isinstance(error, OSError):
        return f"model smp: cannot fetch {named}; {by_hand}, or set `weights: null`"
    return f"model smp: {named} in {folder} are damaged or not theirs; remove that folder and try again: {_line(error)}"


def _where(encoder: str, weights: str) -> tuple[Path, str]:
    """The folder in which weights are looked for, and how to place them there without a network."""
    import timm
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    if encoder in library.encoders.encoders:
        source = library.encoders.encoders[encoder]["pretrained_settings"][weights]
        page = f"https://huggingface.co/{source['repo_id']}/tree/{source['revision']}"
        folder = cache / f"models--{source['repo_id'].replace('/', '--')}"
        return folder, (
            f"place config.json and model.safetensors from {page} into the folder "
            f"{folder / 'snapshots' / source['revision']}"
        )
    name = encoder.partition("-")[2]
    facts = timm.get_pretrained_cfg(f"tf_{name}" if encoder.startswith("timm-mobilenetv3") else name)
    assert facts is not None, encoder  # else there were no weights to look for
    if not facts.hf_hub_id:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        return folder, f"place {facts.url} into the folder {folder}"
    folder = cache / f"models--{facts.hf_hub_id.replace('/', '--')}"
    return folder, (
        f"place model.safetensors from https://huggingface.co/{facts.hf_hub_id}/tree/main into the folder "
        f"{folder / 'snapshots' / 'main'} and write the word main into the file {folder / 'refs' / 'main'}"
    )
