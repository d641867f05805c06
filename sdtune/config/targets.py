"""Patterns that pick layers by their path."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import Field, field_validator

from sdtune.config.base import Options

REGEX_PREFIX = "re:"


class PatternRule(Options):
    """Options for what a pattern matches."""

    match: Annotated[str, Field(min_length=1)]
    """Glob over a whole path, e.g. `unet.*.attn2.to_k*`, or `re:` and a regular expression to find in it."""

    @field_validator("match")
    @classmethod
    def _check_regex(cls, value: str) -> str:
        try:
            re.compile(value.removeprefix(REGEX_PREFIX) if value.startswith(REGEX_PREFIX) else "")
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from error
        return value

    def matches(self, path: str) -> bool:
        """Tell whether a path fits the pattern; upper and lower case differ."""
        if self.match.startswith(REGEX_PREFIX):
            return re.search(self.match.removeprefix(REGEX_PREFIX), path) is not None
        return fnmatchcase(path, self.match)


class TargetRule(PatternRule):
    """Options for the layers a pattern matches; a plugin's own rule adds fields to it."""

    match: Annotated[str, Field(min_length=1)]
    """Glob over a layer's whole path, e.g. `unet.*.attn2.to_k`, or `re:` and a regular expression to find in it."""
    exclude: bool = False
    """Leave the matching layers out."""
