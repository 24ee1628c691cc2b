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

    A terminal that went away (snakemake killed) does not stop the work: only the file is written from then on. Nor does
    a file that cannot be written (disk full), whose lines are lost. Raises PipelineError if the file cannot be made.
    """

    def __init__(self, path: Path | None = None, every_s: float = 10.0, name: str = "") -> None:
        self.every_s = every_s
        self._prefix = f"{name}: " if name else ""
        self._last = time.monotonic()
        self._terminal = True
        self._file = None
        if path is not None:
            try:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - lives as long as the job
            except OSError as error:
                reason = f"{error.strerror}: {error.filename}"
                raise PipelineError(f"cannot write the log {path}: {reason}; give another --log") from error

    def __call__(self, text: str) -> None:
        """Write one line."""
        self.only_file(text)
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
        """Write to the file alone; what it does not take is lost."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.write((text + "\n").encode("utf-8", "backslashreplace"))


@contextlib.contextmanager
def reporting(log: Log) -> Iterator[None]:
    """Make an end for people of whatever ends the block.

    PipelineError and OSError are one line and exit status 1, an interrupt is one line and status 130; anything else is
    a traceback and status 1. The log file gets the traceback of an OSError too.
    """
    try:
        yield
    except PipelineError as error:
        log(_error_line(str(error)))
        sys.exit(1)
    except KeyboardInterrupt:
        log("interrupted")
        sys.exit(130)
    except SystemExit:
        raise
    except BaseException as error:
        log.only_file(traceback.format_exc().rstrip())
        if isinstance(error, OSError):
            log(_error_line(_describe(error)))
        else:
            traceback.print_exc()
        sys.exit(1)


def _error_line(text: str) -> str:
    return "error: " + " ".join(text.split())


def _describe(error: OSError) -> str:
    """What happened and to which file; where the error names none, which line of the package ran into it."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        return f"{reason}: {error.filename}"
    package = Path(__file__).parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(package) and path != Path(__file__):
            return f"{reason} (in {frame.name}, {path.relative_to(package.parent)}, line {frame.lineno})"
    return reason


def run(job: Callable[[Log], None], log_path: Path | None, name: str = "") -> None:
    """Run one job of the pipeline with a log and readable errors; `name` opens its lines on the terminal."""
    with reporting(Log(name=name)):
        log = Log(log_path, name=name)
    with reporting(log):
        job(log)
