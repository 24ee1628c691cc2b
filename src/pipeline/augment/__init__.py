"""Augmentations: one file each, made by name with `create`; batches on the device, image and targets together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline import variants

if TYPE_CHECKING:
    from pipeline.augment._transform import Transform


def create(name: str, **params: Any) -> Transform:
    """Make augmentation `name`.

    Args:
        name: a file of src/pipeline/augment/ with a `build`.
        params: its parameters; the rest take their defaults.

    Returns:
        A `Transform`: a function of a batch, random by torch's global generator, seeded by (seed, epoch, step).

    Raises:
        ConfigError: for an unknown augmentation or parameter, or a wrong value.
    """
    resolved = variants.check("augment", name, params, "augment.create")
    transform: Transform = variants.load("augment", name).build(**resolved)
    return transform
