"""Pictures side by side, with labels."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from sdtune.files import write_bytes
from sdtune.sampling.request import format_infotext

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sdtune.sampling.request import PictureRequest

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FONT_PX, _LINE_PX = 15, 20
_GAP_PX = 10
_MIN_CELL_PX = 192
_LABEL_WIDTH_PX = 176
_PAPER, _INK, _EMPTY = (250, 250, 248), (32, 32, 36), (228, 228, 226)
# Searched in the system's font folders when a label holds letters that PIL's own font has not.
_WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "msgothic.ttc", "PingFang.ttc", "DejaVuSans.ttf")
_NO_LETTER = "\U0010ffff"


def draw_grid(
    rows: Sequence[str], columns: Sequence[str], pictures: Sequence[Sequence[Image.Image | None]]
) -> Image.Image:
    """Draw a table of pictures, labelled by `rows` on the left and by `columns` on top.

    Small pictures are enlarged by a whole factor, pixel by pixel, so that nothing is smoothed away.

    Args:
        rows: R labels, e.g. prompts.
        columns: C labels, e.g. `before`, `step 200`, `after`.
        pictures: R rows of C pictures; None leaves a cell empty.
    """
    if len(pictures) != len(rows) or any(len(line) != len(columns) for line in pictures):
        raise ValueError(f"{len(rows)} x {len(columns)} labels need as many pictures")
    cells = [[picture and _enlarge(picture) for picture in line] for line in pictures]
    sizes = [cell.size for line in cells for cell in line if cell] or [(_MIN_CELL_PX, _MIN_CELL_PX)]
    width, height = max(max(width for width, _ in sizes), _MIN_CELL_PX), max(height for _, height in sizes)
    heads = [_wrap(label, width) for label in columns]
    sides = [_wrap(label, _LABEL_WIDTH_PX) for label in rows]
    lefts = _positions(_LABEL_WIDTH_PX + 2 * _GAP_PX, [width] * len(columns))
    tops = _positions(2 * _GAP_PX + _height(heads), [max(height, _height([side])) for side in sides])
    grid = Image.new("RGB", (lefts[-1], tops[-1]), _PAPER)
    draw = ImageDraw.Draw(grid)
    for left, head in zip(lefts, heads, strict=False):
        _write(draw, (left, _GAP_PX), head)
    for top, side, line in zip(tops, sides, cells, strict=False):
        _write(draw, (_GAP_PX, top), side)
        for left, cell in zip(lefts, line, strict=False):
            _place(grid, cell, left, top, (width, height))
    return grid


def save_picture(
    path: Path, picture: Image.Image, requests: Sequence[PictureRequest], *, overwrite: bool = False
) -> Path:
    """Write a picture or a grid as PNG, with how it was made in its text.

    `parameters` holds the first request as A1111 writes it, for its PNG Info tab; `sdtune` all of them as JSON.

    Raises:
        ConfigError: The file is there, and may not be replaced.
        PlatformError: The file cannot be written.
    """
    texts = PngInfo()
    if requests:
        texts.add_text("parameters", format_infotext(requests[0]))
        texts.add_text("sdtune", json.dumps([asdict(request) for request in requests], ensure_ascii=False))
    stream = BytesIO()
    picture.save(stream, "PNG", pnginfo=texts)
    return write_bytes(path, stream.getvalue(), overwrite=overwrite)


def _enlarge(picture: Image.Image) -> Image.Image:
    factor = -(-_MIN_CELL_PX // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _positions(start: int, lengths: Sequence[int]) -> list[int]:
    """Where each of the lengths begins, with gaps between, and where the last gap ends."""
    positions = [start]
    for length in lengths:
        positions.append(positions[-1] + length + _GAP_PX)
    return positions


def _height(labels: Sequence[Sequence[str]]) -> int:
    return _LINE_PX * max(map(len, labels), default=0)


def _place(grid: Image.Image, cell: Image.Image | None, left: int, top: int, size: tuple[int, int]) -> None:
    picture = cell or Image.new("RGB", size, _EMPTY)
    grid.paste(picture.convert("RGB"), (left + (size[0] - picture.width) // 2, top + (size[1] - picture.height) // 2))


def _write(draw: ImageDraw.ImageDraw, corner: tuple[int, int], lines: Sequence[str]) -> None:
    left, top = corner
    for index, line in enumerate(lines):
        draw.text((left, top + index * _LINE_PX), line, fill=_INK, font=_font_for(line))


def _wrap(text: str, width_px: int) -> list[str]:
    """Break a label into lines, between words where it can, inside a word that is too long."""
    font = _font_for(text)
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width_px:
            lines[-1] = joined
            continue
        pieces = _break(word, font, width_px)
        lines = [*lines, *pieces] if lines[-1] else pieces
    return lines


def _break(word: str, font: Font, width_px: int) -> list[str]:
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width_px:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def _font_for(text: str) -> Font:
    letters = frozenset(letter for letter in text if not letter.isspace())
    return next((font for font in _fonts() if _has_letters(font, letters)), _fonts()[0])


@cache
def _fonts() -> list[Font]:
    fonts: list[Font] = [ImageFont.load_default(size=_FONT_PX)]
    for name in _WIDE_FONTS:
        try:
            fonts.append(ImageFont.truetype(name, _FONT_PX))
        except OSError:
            continue
    return fonts


@cache
def _has_letters(font: Font, letters: frozenset[str]) -> bool:
    missing = bytes(font.getmask(_NO_LETTER))
    return all(bytes(font.getmask(letter)) != missing for letter in letters)
