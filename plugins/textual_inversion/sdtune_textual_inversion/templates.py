"""What the model is told about an image: texts with a place for the new word, and for the caption."""

from __future__ import annotations

import re
from pathlib import Path

from sdtune.api import ConfigError

NAME, CAPTION = "[name]", "[filewords]"

_SUBJECT = (
    "a [name]",
    "a photo of a [name]",
    "a photo of one [name]",
    "a picture of a [name]",
    "a picture that shows a [name]",
    "a clear photo of a [name]",
    "a dark photo of a [name]",
    "a bright photo of a [name]",
    "a blurry photo of a [name]",
    "a [name] seen from near",
    "a [name] seen from afar",
    "a small [name] in a picture",
    "here is a [name]",
    "this is the [name]",
)
_STYLE = (
    "[name]",
    "a picture by [name]",
    "a picture in the style of [name]",
    "a painting in the style of [name]",
    "a drawing in the style of [name]",
    "art made the way of [name]",
    "a work that looks like [name]",
    "a scene as [name] would show it",
    "a detail, [name] style",
    "[name] style",
    "a colourful work, [name] style",
    "a quiet work, [name] style",
)
TEMPLATES = {
    "none": (CAPTION,),
    "subject": _SUBJECT,
    "subject_filewords": tuple(f"{line}, {CAPTION}" for line in _SUBJECT),
    "style": _STYLE,
    "style_filewords": tuple(f"{CAPTION}, {line}" for line in _STYLE),
}


def read_template(template: str) -> tuple[str, ...]:
    """Give the lines of a template by its name, or of a file that has one text a line.

    Raises:
        ConfigError: There is no such template or file, or it has no line.
    """
    if template in TEMPLATES:
        return TEMPLATES[template]
    where = "textual_inversion.template"
    try:
        lines = [line.strip() for line in Path(template).read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        hint = f"give a text file, or one of {', '.join(TEMPLATES)}"
        raise ConfigError(f"cannot read the template {template!r}: {why}", where=where, hint=hint) from error
    if not lines:
        raise ConfigError(f"the template {template} is empty", where=where, hint=f"write lines such as {_SUBJECT[1]!r}")
    return tuple(lines)


def fill(line: str, name: str, caption: str) -> str:
    """Put the word and the caption into a line; a comma that an empty caption leaves at an end goes."""
    return line.replace(NAME, name).replace(CAPTION, caption).strip().strip(",").strip()


def mentions(text: str, name: str) -> bool:
    """Tell whether a text has a word, not as a part of a longer one."""
    letter = r"[^\W\d_]"
    return re.search(rf"(?<!{letter}){re.escape(name)}(?!{letter})", text, re.IGNORECASE) is not None
