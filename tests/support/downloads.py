"""Downloads in processes of their own, forked from one that has everything imported: quick to start and to kill."""

from __future__ import annotations

import multiprocessing
import resource
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pipeline.acquire.imagery import download_imagery
from pipeline.command import run

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.support.downloads"])


def _download(arguments: tuple[Any, ...], zoom: int | None, log: Path, limit_bytes: int | None) -> None:
    if limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    run(lambda lines: download_imagery(*arguments, zoom=zoom, log=lines), log)


def start_download(
    arguments: tuple[Any, ...], *, zoom: int | None, log: Path, limit_bytes: int | None = None
) -> BaseProcess:
    """Run `download_imagery` as a job of the pipeline; no file may grow beyond `limit_bytes`."""
    process = CONTEXT.Process(target=_download, args=(arguments, zoom, log, limit_bytes))
    process.start()
    return process
