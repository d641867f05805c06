"""Single values as YAML 1.2 (core schema) reads them, and the text that reads back as them."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from sdtune.config.tree import Mark
from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from sdtune.config.tree import Scalar

MAX_DIGITS = 400
_WORDS: dict[str, bool | Mark | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    "---": Mark.DELETE,
}
_INT = re.compile(r"[-+]?[0-9]+")
_INT_OF_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_PLAIN = re.compile(r"[\w/.](?:[\w /.+()-]*[\w/.+()])?")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def read_scalar(text: str) -> Scalar | Mark:
    """Read an unquoted scalar, e.g. `1e-4` as a float, `0o17` as 15, `on` and `16:9` as text, `---` as the mark.

    Raises:
        ConfigError: A number of more than 400 digits.
    """
    if text in _WORDS:
        return _WORDS[text]
    is_whole, is_of_base = _INT.fullmatch(text), _INT_OF_BASE.fullmatch(text)
    if (is_whole or is_of_base) and len(text) > MAX_DIGITS:
        raise ConfigError(f"a number of {len(text)} digits is too long")
    if is_whole:
        return int(text)
    if is_of_base:
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return float(text.replace(".", "", 1)) if _SPECIAL_FLOAT.fullmatch(text) else text


def write_scalar(value: object) -> str:
    """Write a scalar so that it reads back equal, in a block or within brackets."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return repr(value) if isinstance(value, int | float) else _write_text(str(value))


def _write_text(text: str) -> str:
    if _PLAIN.fullmatch(text) and isinstance(read_scalar(text), str):
        return text
    return '"' + "".join(_escape(letter) for letter in text) + '"'


def printable(text: str) -> str:
    """Escape what a terminal or a comment must not get, such as line ends and control characters."""
    return "".join(letter if letter.isprintable() else _escape(letter) for letter in text)


def _escape(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    if letter.isprintable():
        return letter
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
