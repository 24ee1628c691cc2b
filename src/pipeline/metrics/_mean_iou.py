"""Parameters of `mean_iou`, checked while the Snakefile is parsed."""

from __future__ import annotations

from typing import Any

from pipeline.metrics._leave_out import checked


def check(*, leave_out: list[Any] | None) -> None:
    """ConfigError unless `leave_out` names classes, each once."""
    checked("mean_iou", leave_out)
