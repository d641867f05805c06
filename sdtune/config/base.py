"""The base of every options model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """A frozen group of options: unknown names are errors, every field has a description and bounds.

    A validator raises ValueError with the rule alone, e.g. "must be a multiple of 8"; name, value and place are added.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )
