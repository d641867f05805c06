"""An embedding inside a picture: as webui writes and reads it, in a text chunk or in the pixels at both sides."""

from __future__ import annotations

import base64
import json
import math
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from sdtune.errors import ModelError
from sdtune.formats.embedding import Embedding, from_content, webui_checksum, webui_embedding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

CHUNK = "sd-ti-embedding"
MAX_JSON_BYTES = 1 << 26
SIDE_PX, STRIP_PX = 512, 64
_BROKEN = (Image.DecompressionBombError, OSError, ValueError, TypeError, RuntimeError, zlib.error)
_PAPER, _INK = (24, 24, 28), (245, 245, 242)
_TENSOR = "TORCHTENSOR"


def encode_card(embedding: Embedding, picture: Image.Image | None = None) -> bytes:
    """Draw a PNG with the embedding in its text chunk, and its name, base model, size and steps in a strip below.

    Args:
        embedding: What goes in.
        picture: What it does; None draws its numbers.
    """
    chunk = PngInfo()
    chunk.add_text(CHUNK, base64.b64encode(_to_json(webui_embedding(embedding))).decode())
    buffer = BytesIO()
    _draw(embedding, picture or _picture_of_numbers(embedding)).save(buffer, "PNG", pnginfo=chunk)
    return buffer.getvalue()


def read_card(path: Path) -> Embedding:
    """Read an embedding out of a picture.

    Raises:
        ModelError: It is no picture, or there is none inside.
    """
    content = read_card_content(path)
    name = content.get("name") if isinstance(content, dict) else None
    return from_content(content, name=name if isinstance(name, str) else path.stem, where=str(path))


def read_card_content(path: Path) -> Any:
    """Read what a picture holds, from its text chunk or else from its pixels: webui's dictionary, if all is well.

    Raises:
        ModelError: It is no picture, or there is nothing inside.
    """
    try:
        with Image.open(path) as picture:
            text = picture.info.get(CHUNK)
            return _from_json(base64.b64decode(text)) if text else _from_pixels(_crop_black(picture))
    except _BROKEN as error:
        raise ModelError(f"cannot read an embedding out of the picture: {error}", where=str(path)) from error


def _to_json(content: dict[str, Any]) -> bytes:
    def encode(value: Any) -> Any:
        return {_TENSOR: value.tolist()}

    return json.dumps(content, default=encode).encode()


def _from_json(data: bytes) -> Any:
    def decode(value: dict[str, Any]) -> Any:
        return torch.tensor(value[_TENSOR]) if _TENSOR in value else value

    return json.loads(data, object_hook=decode)


def _crop_black(picture: Image.Image) -> NDArray[np.uint8]:
    """Give the pixels (H, W, 3) without black borders."""
    pixels = np.asarray(picture.convert("RGB"))
    lit = pixels.min(axis=2) > 0
    columns, rows = np.flatnonzero(lit.any(axis=0)), np.flatnonzero(lit.any(axis=1))
    if not len(columns):
        raise ValueError("it is black")
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _from_pixels(pixels: NDArray[np.uint8]) -> Any:
    """Read the block left of the first dark column and the one right of the last: low and high halves of bytes."""
    values = np.bitwise_and(pixels, 0x0F, dtype=np.uint8)
    dark = np.flatnonzero(values.max(axis=(0, 2)) == 0)
    if len(dark) < 2:
        raise ValueError("it has none inside")
    low, high = _unmask(values[:, : dark[0]]), _unmask(values[:, dark[-1] + 1 :])
    if low.shape != high.shape:
        raise ValueError("its two sides differ in size")
    data = zlib.decompressobj().decompress((high << 4 | low).tobytes(), MAX_JSON_BYTES)
    return _from_json(data)


def _unmask(block: NDArray[np.uint8]) -> NDArray[np.uint8]:
    mask = np.fromiter(_stream(block.size), dtype=np.uint8, count=block.size)
    unmasked: NDArray[np.uint8] = np.bitwise_xor(block, (mask & 0x0F).reshape(block.shape))
    return unmasked


def _stream(count: int) -> Iterator[int]:
    """Give numbers of the generator x <- 1664525 x + 1013904223 mod 2^32 (Numerical Recipes), each mod 255."""
    x = 0
    for _ in range(count):
        x = (1664525 * x + 1013904223) % 2**32
        yield x % 255


def _draw(embedding: Embedding, picture: Image.Image) -> Image.Image:
    factor = max(1, -(-SIDE_PX // picture.width))
    shown = picture.convert("RGB").resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    card = Image.new("RGB", (shown.width, shown.height + STRIP_PX), _PAPER)
    card.paste(shown)
    pen = ImageDraw.Draw(card)
    pen.text((12, shown.height + 8), embedding.name, fill=_INK, font=ImageFont.load_default(24))
    facts = f"{embedding.base_name}  [{webui_checksum(next(iter(embedding.vectors.values())))}]"
    size = f"{embedding.count} vectors  {embedding.step or 0} steps"
    pen.text((12, shown.height + 40), f"{facts}  {size}".strip(), fill=_INK, font=ImageFont.load_default(14))
    return card


def _picture_of_numbers(embedding: Embedding) -> Image.Image:
    """Show the numbers of an embedding as grey squares: darker below zero, brighter above."""
    numbers = torch.cat([tensor.detach().float().cpu().flatten() for tensor in embedding.vectors.values()])
    side = math.isqrt(numbers.numel() - 1) + 1
    grey = torch.full((side * side,), 128.0)
    grey[: numbers.numel()] += numbers / numbers.abs().max().clamp(min=1e-8) * 127
    return Image.fromarray(grey.reshape(side, side).to(torch.uint8).numpy()).resize(
        (SIDE_PX, SIDE_PX), Image.Resampling.NEAREST
    )
