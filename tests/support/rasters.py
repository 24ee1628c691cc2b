"""Small rasters on disk."""

from __future__ import annotations

import numpy as np
import rasterio
from affine import Affine

UTM = "EPSG:32637"
WEST, NORTH, RES = 500_000.0, 4_000_000.0, 2.0


def write(path, pixels, crs=UTM, transform=None, alpha=False, mask=None, **profile):
    """A GeoTIFF written by rasterio alone."""
    bands, height, width = pixels.shape
    colours = {"photometric": "RGB", "alpha": "YES"} if alpha else {"photometric": "MINISBLACK", "alpha": "NO"}
    profile = {"driver": "GTiff", **colours, **profile}
    transform = transform or Affine(RES, 0, WEST, 0, -RES, NORTH)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path,
            "w",
            height=height,
            width=width,
            count=bands,
            dtype=pixels.dtype,
            crs=crs,
            transform=transform,
            **profile,
        ) as target,
    ):
        target.write(pixels)
        if mask is not None:
            target.write_mask(mask)
    return path


def noise(bands, height, width, dtype="uint8"):
    return np.random.default_rng(3).integers(1, 250, (bands, height, width)).astype(dtype)
