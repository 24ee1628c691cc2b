"""The one root of every error a user can cause.

A message names the value, the place, and the way out; the command line prints it as one line, without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PipelineError(Exception):
    """Root of all errors that are the user's to mend."""


class ConfigError(PipelineError):
    """A wrong key, value or name in a config file."""


class DataError(PipelineError):
    """An input file that is missing, broken, or not what the config says."""


class DownloadError(PipelineError):
    """A source that could not be fetched."""


class RunError(PipelineError):
    """A training, evaluation or prediction that cannot go on."""


def choices(value: str, names: Iterable[str]) -> str:
    """Return ``"; did you mean x? Choices: a, b"`` for an unknown `value` among `names`."""
    listed = sorted(names)
    near = difflib.get_close_matches(value, listed, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}choices: {', '.join(listed) if listed else 'none'}"
