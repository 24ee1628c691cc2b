"""ResUNet-a's tables, and what its signature cannot say, checked while the Snakefile is parsed; without torch."""

from __future__ import annotations

from typing import Any

from pipeline.errors import ConfigError

LEVELS = {"d6": 6, "d7v1": 7, "d7v2": 7}
MIDDLE_SCALES = {"d6": 4, "d7v1": 0, "d7v2": 3}  # the middle of d7v1 is a max pool of 2 × 2
END_SCALES = 4

_ONE, _THREE, _FOUR = (1,), (1, 3, 15), (1, 3, 15, 31)
_ENCODER = [_FOUR, _FOUR, _THREE, _THREE, _ONE, _ONE, _ONE]  # shallow to deep
_DECODER = {6: [_THREE, _THREE, _FOUR, _FOUR, _FOUR], 7: [_ONE, _THREE, _FOUR, _FOUR, _FOUR, _FOUR]}  # deep to shallow

Dilations = list[tuple[int, ...]]


def encoder_dilations(depth: str, atrous: bool) -> Dilations:
    """The dilation of each branch of each residual block, shallow to deep; all 1 without `atrous`."""
    return _flattened(_ENCODER[: LEVELS[depth]], atrous)


def decoder_dilations(depth: str, atrous: bool, decoder: str) -> Dilations:
    """The same for the decoder, deep to shallow; one branch per block where it is the one `printed` in Table 1."""
    levels = LEVELS[depth]
    return _flattened(_DECODER[levels] if decoder == "released" else [_ONE] * (levels - 1), atrous)


def _flattened(dilations: Dilations, atrous: bool) -> Dilations:
    return dilations if atrous else [(1,) * len(block) for block in dilations]


def middle_scales(depth: str, psp: str) -> int:
    """Scales of the pyramid pooling in the middle; 0 for none."""
    return MIDDLE_SCALES[depth] if psp in ("both", "middle") else 0


def end_scales(psp: str) -> int:
    """Scales of the pyramid pooling before the last layers; 0 for none."""
    return END_SCALES if psp in ("both", "end") else 0


def stride_px(depth: str, psp: str) -> int:
    """What height and width must be multiples of, so that the middle's map divides into whole partitions."""
    scales = middle_scales(depth, psp)
    doublings = scales - 1 if scales else 1 if depth == "d7v1" else 0
    return 1 << (LEVELS[depth] - 1 + doublings)


def way_out(depth: str, psp: str) -> str:
    """What to change, besides the chip's size, where an image does not divide; empty where nothing helps."""
    if middle_scales(depth, psp):
        instead = "end" if psp == "both" else "none"
        return f"take psp: {instead}, which needs multiples of {stride_px(depth, instead)}"
    return "" if depth == "d6" else f"take depth: d6 with psp: end, which needs multiples of {stride_px('d6', 'end')}"


def outputs(*, head: str, **others: Any) -> tuple[str, ...]:
    """What the network gives, the mask first."""
    return ("mask",) if head == "single" else ("mask", "boundary", "distance", "colour")


def check(*, depth: str, width: int, psp: str, **others: Any) -> None:
    """ConfigError for a width that pyramid pooling cannot divide, or a pyramid in a middle that has none."""
    if width < END_SCALES:
        raise ConfigError(
            f"model resunet_a: width {width} must be {END_SCALES} or more: each of the {END_SCALES} scales of the "
            f"pyramid pooling has width // {END_SCALES} channels"
        )
    if psp == "middle" and not MIDDLE_SCALES[depth]:
        raise ConfigError(
            f"model resunet_a: {depth} has no pyramid pooling in the middle: take psp: end or none, or another depth"
        )
