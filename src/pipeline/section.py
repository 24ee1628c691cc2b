"""The base of every config section, and the types of names. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from pipeline.names import checked_name

Name = Annotated[str, AfterValidator(checked_name)]


class Section(BaseModel):
    """Base of every config section: unknown keys are errors, numbers finite, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
