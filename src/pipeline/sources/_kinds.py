"""Which kinds of imagery sources there are: the files of this folder."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Annotated, Any, Union

from pydantic import Field

from pipeline.sources._base import ImagerySource


@functools.cache
def kinds() -> dict[str, type[ImagerySource]]:
    """Kind → its section, from the files of this folder."""
    files = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
    return {name: importlib.import_module(f"pipeline.sources.{name}").Source for name in files}


def union() -> Any:
    """The type of an entry of a region's `imagery`, told apart by `kind`."""
    return Annotated[Union[tuple(kinds().values())], Field(discriminator="kind")]  # noqa: UP007 - from a tuple
