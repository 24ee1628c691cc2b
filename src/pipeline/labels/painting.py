"""The layers of a recipe over each other: which one lies on top of a pixel, and the class it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from pipeline.acquire.class_raster import lies_on
from pipeline.config import IGNORE, ClassScheme, LandcoverLayer, RecipeConfig
from pipeline.errors import DataError, choices
from pipeline.grid import Grid, Shard
from pipeline.labels.layers import LayerReader
from pipeline.labels.scanline import MAX_LAYERS, Spans, top_layers

Band = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]

COUNTED_PX = 1 << 22  # at once: bincount needs eight bytes a pixel


def painting_order(recipe: RecipeConfig) -> list[tuple[int, str, Any]]:
    """(1 + position in the recipe, name, layer) of each layer, the first painted first: by priority, then position."""
    numbered = [(value, name, layer) for value, (name, layer) in enumerate(recipe.layers.items(), start=1)]
    return sorted(numbered, key=lambda entry: (entry[2].priority, entry[0]))


class Painter:
    """Paints a recipe band after band. A context manager: the land covers stay open.

    Args:
        recipe, scheme, grid, layers_gpkg, landcover: as for `pipeline.labels.rasterize.rasterize_labels`.
    """

    def __init__(
        self,
        recipe: RecipeConfig,
        scheme: ClassScheme,
        grid: Grid,
        layers_gpkg: Path | None,
        landcover: Mapping[str, Path],
    ) -> None:
        self._grid = grid
        self._classes = len(scheme.names)
        self._order = painting_order(recipe)
        self._layers = {value: (name, layer) for value, name, layer in self._order}
        self._label = np.full(IGNORE + 1, IGNORE, dtype=np.uint8)  # of each value of the source raster
        if recipe.background is not None:
            self._label[0] = scheme.index(recipe.background)
        for value, name, layer in self._order:
            if isinstance(layer, LandcoverLayer):
                continue
            self._label[value] = scheme.index(layer.label)
            if layers_gpkg is None:
                raise DataError(f"layer {name!r} of the recipe needs OSM layers, and the region has no `osm` extract")
        self._reader = LayerReader(layers_gpkg, grid) if layers_gpkg else None
        self._hidden = {
            value: [scheme.index(label) for label in layer.without]
            for value, _, layer in self._order
            if isinstance(layer, LandcoverLayer)
        }
        self._paths = {value: _landcover_path(self._layers[value][1].source, landcover) for value in self._hidden}
        self._open = ExitStack()
        self._rasters: dict[int, Any] = {}

    def __enter__(self) -> Painter:
        with ExitStack() as opened:
            for value, path in self._paths.items():
                self._rasters[value] = opened.enter_context(_open_landcover(path, self._grid))
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def features(self) -> dict[str, Any]:
        """By layer of OSM features, in painting order: what `LayerReader.counts` says of those so far."""
        shapes = [self._layers[value] for value, _, _ in self._order if value not in self._hidden]
        return {name: self._reader.counts(name, layer) for name, layer in shapes} if self._reader else {}

    def paint(self, window: Shard, counts: Counts) -> tuple[Band, Band]:
        """Classes and sources of a window, uint8 [window.height, window.width] each.

        Adds the pixels of each source and class to `counts`, int64 [1 + layers, 256].
        """
        sources = classes = np.zeros((0, 0), dtype=np.uint8)
        for group in self._groups():
            if group[0] in self._rasters:
                shown = self._read_landcover(group[0], window)
                painted = np.where(shown != IGNORE, np.uint8(group[0]), np.uint8(0))
            else:
                runs = top_layers([self._spans(value, window) for value in group], group, window)
                painted, shown = runs.expand(), runs.expand(self._label)
            if sources.size:
                np.copyto(classes, shown, where=painted > 0)
                np.copyto(sources, painted, where=painted > 0)
            else:
                np.copyto(shown, self._label[0], where=painted == 0)
                sources, classes = painted, shown
        self._count(sources, classes, counts)
        return classes, sources

    def _groups(self) -> Iterator[list[int]]:
        """Values in painting order: a land cover by itself, layers of shapes between two of them together."""
        group: list[int] = []
        for value, _, _ in self._order:
            if group and (value in self._rasters or group[0] in self._rasters or len(group) == MAX_LAYERS):
                yield group
                group = []
            group.append(value)
        yield group

    def _spans(self, value: int, window: Shard) -> Spans:
        assert self._reader is not None
        name, layer = self._layers[value]
        return self._reader.spans(name, layer, window)

    def _count(self, sources: Band, classes: Band, counts: Counts) -> None:
        for value in range(len(counts)):
            here = sources == value
            if value in self._rasters:
                counts[value] += _histogram(classes[here])
            else:
                counts[value, self._label[value]] += np.count_nonzero(here)

    def _read_landcover(self, value: int, window: Shard) -> Band:
        path = self._paths[value]
        try:
            part = Window(window.col_px, window.row_px, window.width, window.height)
            band: Band = self._rasters[value].read(1, window=part)
        except RasterioError as error:
            raise _unreadable(path, error) from None
        wrong = np.flatnonzero(_histogram(band.ravel())[self._classes : IGNORE]) + self._classes
        if wrong.size:
            raise DataError(
                f"{path}: holds {wrong.tolist()}, the class scheme ends at {self._classes - 1}; make it again"
            )
        if self._hidden[value]:
            table = np.arange(IGNORE + 1, dtype=np.uint8)
            table[self._hidden[value]] = IGNORE
            band = table[band]
        return band


def _histogram(pixels: Band) -> Counts:
    """Pixels of each value, int64 [256], of uint8 [n]."""
    counts = np.zeros(IGNORE + 1, dtype=np.int64)
    for first in range(0, len(pixels), COUNTED_PX):
        counts += np.bincount(pixels[first : first + COUNTED_PX], minlength=IGNORE + 1)
    return counts


def _landcover_path(source: str, landcover: Mapping[str, Path]) -> Path:
    if source not in landcover:
        raise DataError(f"no land cover {source!r} was warped for this region; {choices(source, landcover)}")
    return landcover[source]


def _open_landcover(path: Path, grid: Grid) -> Any:
    try:
        raster = rasterio.open(path)
    except RasterioError as error:
        raise _unreadable(path, error) from None
    if not lies_on(raster, grid):
        raster.close()
        raise DataError(f"{path}: does not lie on the region's grid; delete it, and it is made again")
    return raster


def _unreadable(path: Path, error: Exception) -> DataError:
    text = " ".join(str(error.__cause__ or error).split())
    return DataError(f"{path}: cannot be read as a raster ({text}); delete it, and it is made again")
