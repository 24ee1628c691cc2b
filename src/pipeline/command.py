"""What every script under scripts/ shares: a log file beside the terminal, and errors for people."""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import PipelineError


class Log:
    """Writes lines to standard error and to a file; `progress` writes at most one line per 10 seconds.

    A terminal that went away (snakemake killed) does not stop the work: only the file is written from then on.
    """

    def __init__(self, path: Path | None = None, every_s: float = 10.0, name: str = "") -> None:
        self.every_s = every_s
        self._prefix = f"{name}: " if name else ""
        self._last = time.monotonic()
        self._terminal = True
        self._file = None
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 - lives as long as the job

    def __call__(self, text: str) -> None:
        """Write one line."""
        if self._file is not None:
            self._file.write(text + "\n")
        if self._terminal:
            try:
                print(self._prefix + text, file=sys.stderr, flush=True)
            except OSError:
                self._terminal = False

    def progress(self, text: str) -> None:
        """Write one line unless the last progress line is younger than `every_s` seconds."""
        now = time.monotonic()
        if now - self._last >= self.every_s:
            self._last = now
            self(text)

    def only_file(self, text: str) -> None:
        """Write to the file alone."""
        if self._file is not None:
            self._file.write(text + "\n")


@contextlib.contextmanager
def reporting(log: Log) -> Iterator[None]:
    """Turn a PipelineError into one line and exit status 1; log the traceback of anything else, then exit 1."""
    try:
        yield
    except PipelineError as error:
        log("error: " + " ".join(str(error).split()))
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        log.only_file(traceback.format_exc())
        if isinstance(error, OSError) and error.filename is not None:
            log(f"error: {error.strerror}: {error.filename}")
        else:
            traceback.print_exc()
        sys.exit(1)


def run(job: Callable[[Log], None], log_path: Path | None, name: str = "") -> None:
    """Run one job of the pipeline with a log and readable errors; `name` opens its lines on the terminal."""
    log = Log(log_path, name=name)
    with reporting(log):
        job(log)
