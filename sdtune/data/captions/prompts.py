"""Token and class word in captions: what a subject's images are called, and what those of its class are called."""

from __future__ import annotations

import re

FILEWORDS = "[filewords]"


def fill_template(template: str | None, caption: str) -> str:
    """Put an image's own caption into a prompt: where `[filewords]` stands. Without a template it is the caption."""
    return caption if template is None else template.replace(FILEWORDS, caption)


def instance_text(text: str, token: str, class_word: str) -> str:
    """Name the subject in a text: `a photo of a dog` becomes `a photo of a zwx dog`.

    The class word stays behind the token: a text without it would learn the subject apart from all that the model
    knows of the class. A text that has neither gets the token in front. Words match whole, in either case.

    Args:
        text: A caption.
        token: What calls the subject; empty leaves texts as they are.
        class_word: What it is; empty: the token alone counts.
    """
    if token and not _has(text, token):
        text = _replace(text, class_word, f"{token} {class_word}") if _has(text, class_word) else f"{token}, {text}"
    return _tidy(text)


def class_text_of(text: str, token: str, class_word: str) -> str:
    """Name the class alone in a text: `a photo of a zwx dog` becomes `a photo of a dog`.

    Args:
        text: A caption or prompt.
        token: What calls the subject; it goes, or the class word takes its place.
        class_word: What it is; empty: the token only goes.
    """
    if token and _has(text, token):
        text = _replace(text, token, "" if _has(text, class_word) else class_word)
    if class_word and not _has(text, class_word):
        text = f"{class_word}, {text}"
    return _tidy(text)


def _has(text: str, word: str) -> bool:
    return bool(word) and _pattern(word).search(text) is not None


def _replace(text: str, word: str, new: str) -> str:
    return _pattern(word).sub(lambda _: new, text)


def _pattern(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


def _tidy(text: str) -> str:
    """Collapse spaces and leave backslashes out; a comma has none before it and is never the end."""
    spaced = re.sub(r"\s+", " ", text.replace("\\", ""))
    return re.sub(r"(?: ,)+", ",", spaced).strip(" ,")
