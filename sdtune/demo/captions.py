"""Captions of scenes: varied wording, attributes often left out, now and then a nonsense word."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sdtune.demo.scenes import CHOICES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdtune.demo.scenes import Scene

UNMENTIONED = -1
_CAPTION = 17  # purpose: keeps this random stream apart from those of the drawing
_PREFIXES = (
    "",
    "",
    "a photo of ",
    "a picture of ",
    "an image of ",
    "a drawing of ",
    "a painting of ",
    "a rendering of ",
)
_OBJECT_NOUNS = ("object", "thing", "shape", "figure")
_STYLE_WORDS = {
    "flat": ("flat", "flat colours", "flat style"),
    "outlined": ("outlined", "with an outline", "bold outline"),
    "shadowed": ("shadowed", "with a shadow", "drop shadow"),
    "soft": ("soft", "blurry", "soft edges"),
}
_SIZE_WORDS = {
    "small": ("small", "tiny", "little"),
    "medium": ("medium", "medium-sized"),
    "large": ("large", "big", "huge"),
}
_TEXTURE_WORDS = {
    "plain": ("plain", "solid"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
    "checkered": ("checkered", "chequered"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """A text and, for each attribute of CHOICES, the index of the value it mentions or UNMENTIONED."""

    text: str
    labels: tuple[int, ...]


def with_article(phrase: str) -> str:
    """Prefix a noun phrase with "a" or "an"."""
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def describe(scene: Scene, rng: np.random.Generator, mentioned: frozenset[str]) -> str:
    """Return one of many wordings that mention exactly these attributes."""
    words = _worded(scene, rng, mentioned)
    return _as_tags(words, rng) if rng.random() < 0.2 else _as_sentence(words, rng)


def caption(scene: Scene, variant: int) -> Caption:
    """Return caption number `variant` of a scene."""
    rng = np.random.default_rng([_CAPTION, *scene.key, variant])
    mentioned = _mentioned(rng)
    labels = tuple(
        values.index(getattr(scene, name)) if name in mentioned else UNMENTIONED for name, values in CHOICES.items()
    )
    text = describe(scene, rng, mentioned)
    if rng.random() < 0.15:
        text = _with_nonsense(text, rng)
    return Caption(text=text, labels=labels)


def _mentioned(rng: np.random.Generator) -> frozenset[str]:
    chances = {
        "shape": 0.95, "colour": 0.95, "background": 0.65, "size": 0.45, "position": 0.5,
        "texture": 0.4, "background_texture": 0.35, "style": 0.4,
    }  # fmt: skip
    chosen = {name for name, chance in chances.items() if rng.random() < chance}
    return frozenset(chosen if "background" in chosen else chosen - {"background_texture"})


def _one(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _worded(scene: Scene, rng: np.random.Generator, mentioned: frozenset[str]) -> dict[str, str]:
    words = {name: str(getattr(scene, name)) for name in mentioned}
    tables: dict[str, Mapping[str, tuple[str, ...]]] = {
        "style": _STYLE_WORDS,
        "size": _SIZE_WORDS,
        "texture": _TEXTURE_WORDS,
        "background_texture": _TEXTURE_WORDS,
    }
    for name in mentioned & tables.keys():
        words[name] = _one(rng, tables[name][words[name]])
    if rng.random() < 0.4:  # American spelling
        words = {name: word.replace("grey", "gray").replace("centre", "center") for name, word in words.items()}
    words.setdefault("shape", _one(rng, _OBJECT_NOUNS))
    if "background" in words:
        words["background"] = f"{words.pop('background_texture', '')} {words['background']}".strip()
    return words


def _noun_phrase(words: dict[str, str], rng: np.random.Generator) -> str:
    before = [words[name] for name in ("size", "texture", "colour") if name in words]
    if len(before) == 3 and rng.random() < 0.25:
        before = [before[1], before[0], before[2]]
    return " ".join([*before, words["shape"]])


def _located(position: str, rng: np.random.Generator) -> str:
    if position in ("centre", "center"):
        return _one(rng, (f"in the {position}", f"at the {position}", "in the middle"))
    if " " in position:
        return _one(rng, (f"in the {position} corner", f"at the {position}", f"in the {position}"))
    return _one(rng, (f"at the {position}", f"on the {position}", f"on the {position} side"))


def _as_sentence(words: dict[str, str], rng: np.random.Generator) -> str:
    text = with_article(_noun_phrase(words, rng))
    style = words.get("style", "")
    if style and " " not in style and rng.random() < 0.4:
        text, style = with_article(f"{style} {text.split(' ', 1)[1]}"), ""
    text = _one(rng, _PREFIXES) + text
    tails = [_located(words["position"], rng)] if "position" in words else []
    if "background" in words:
        tails.append(f"{_one(rng, ('on', 'on', 'with', 'against'))} {with_article(words['background'])} background")
    if rng.random() < 0.3:
        tails.reverse()
    text = " ".join([text, *tails])
    return f"{text}, {style}" if style else text


def _as_tags(words: dict[str, str], rng: np.random.Generator) -> str:
    main = " ".join(words[name] for name in ("colour", "shape") if name in words)
    tags = [words[name] for name in ("size", "style", "position") if name in words]
    if "texture" in words:
        main = f"{words['texture']} {main}"
    if "background" in words:
        tags.append(f"{words['background']} background")
    order = rng.permutation(len(tags))
    return ", ".join([main, *(tags[int(i)] for i in order)])


def _with_nonsense(text: str, rng: np.random.Generator) -> str:
    words = text.split(" ")
    for _ in range(int(rng.integers(1, 3))):
        letters = rng.choice(list(string.ascii_lowercase), int(rng.integers(2, 8)))
        words.insert(int(rng.integers(0, len(words) + 1)), "".join(letters))
    return " ".join(words)
