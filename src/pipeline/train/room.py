"""A disk without room, said in one line."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import RunError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OS_ERROR = re.compile(r"\(os error (\d+)\)")  # as safetensors, in Rust, tells of one


@contextmanager
def room(what: str, path: Path, size: int) -> Iterator[None]:
    """RunError when what the block writes, `what` of about `size` bytes at `path`, meets the end of the disk."""
    try:
        yield
    except Exception as error:  # torch and safetensors raise their own, the system's behind it or in the text
        number = _number(error)
        if number not in FULL:
            raise
        free = shutil.disk_usage(path.parent).free
        raise RunError(
            f"{what} {path} cannot be written: {os.strerror(number)}; it takes {size / 1e6:.1f} MB, where "
            f"{free / 1e6:.1f} MB are free: make room and start again, the training goes on from the last state written"
        ) from None


def _number(error: BaseException | None) -> int:
    """The system's number of an error, 0 where there is none."""
    text = OS_ERROR.search(str(error))
    if text is not None:
        return int(text[1])
    while error is not None:
        if isinstance(error, OSError):
            return error.errno or 0
        error = error.__cause__ or error.__context__
    return 0
