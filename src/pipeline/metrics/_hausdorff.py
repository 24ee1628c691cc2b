"""Forms of the Hausdorff distance, checked while the Snakefile is parsed. Light: no NumPy."""

from __future__ import annotations

from typing import Any

from pipeline.errors import ConfigError, choices

FORMS = (
    "hausdorff",
    "hausdorff_95",
    "average_hausdorff",
    "balanced_average_hausdorff",
    "modified_average_hausdorff",
)


def check(*, forms: list[Any], on: str, neighbours: int) -> None:
    """ConfigError, with the choices, unless `forms` lists known forms, each once."""
    for form in forms:
        if form not in FORMS:
            raise ConfigError(f"metric hausdorff: no form {form!r}; {choices(str(form), FORMS)}")
    if not forms or len(set(forms)) < len(forms):
        raise ConfigError(f"metric hausdorff: forms must name one or more, each once, got {forms}")
