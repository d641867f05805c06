"""Types that several options share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

CaptionSource = Literal["auto", "txt", "caption", "json", "class_text", "filename", "folder", "empty"]
CaptionLines = Literal["first", "all", "draw"]
MissingCaption = Literal["error", "class_text", "filename", "folder", "empty", "skip"]
Crop = Literal["center", "random", "focal", "face"]
PositiveInt = Annotated[int, Field(ge=1)]


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _check_size(value: str) -> str:
    sides = value.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) >= 8 and int(side) % 8 == 0 for side in sides):
        raise ValueError("must be a side in px or WIDTHxHEIGHT, multiples of 8, e.g. 512 or 640x448")
    return value.lower()


Consumer = Literal["a1111", "forge", "comfyui", "kohya", "diffusers"]
SamplerName = Literal["dpmpp_2m_karras", "euler_a", "ddim"]
Size = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_check_size)]
Fraction = Annotated[float, Field(ge=0, le=1)]
