"""Checks of the trigger word: what calls the subject."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from sdtune.data.check import kinds
from sdtune.data.check.finding import Finding
from sdtune.data.check.survey import is_tagged, tags_of
from sdtune.data.check.words import COMMON

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sdtune.config.data import DataOptions
    from sdtune.data.check.survey import SeenFolder, SeenImage, Survey

_MOST = 0.6  # of the captions have the word, else it is none
_ENOUGH_CAPTIONS = 4
_WORD = re.compile(r"\w[\w'-]*")
_MADE_UP = re.compile(r"[b-df-hj-np-tv-xz]{3,}|[a-z]+\d[a-z\d]*", re.IGNORECASE)  # no vowel, or digits behind letters
_MOST_TOKENS = 3


def find_trigger(folder: SeenFolder, options: DataOptions) -> str:
    """Find what calls the subject of a folder, in lower case; empty: it cannot be told.

    It is `data.token`, or a word of most captions: one of the folder's name, one that is made up, or a first tag that
    is one word.
    """
    if options.token:
        return options.token.casefold()
    captions = [image.caption for image in folder.images if image.caption]
    if len(captions) < _ENOUGH_CAPTIONS:
        return ""
    counts = Counter(word for caption in captions for word in set(words_of(caption)))
    named = words_of(folder.class_text)
    made_up = [word for word, _ in counts.most_common() if _MADE_UP.fullmatch(word)]
    first = _first_tags(captions, options.tag_separator)
    usual = [word for word in (*named, *made_up, *first) if counts[word] >= _MOST * len(captions)]
    return next(
        (word for word in usual if word not in COMMON), next((tag for tag in first if _WORD.fullmatch(tag)), "")
    )


def trigger_missing(survey: Survey) -> Iterator[Finding]:
    """Find captions without the trigger word that the others of their folder have."""
    for folder in survey.read_folders("training") if not survey.options.token else ():
        trigger = find_trigger(folder, survey.options)
        if trigger and trigger not in COMMON:
            captioned = [image for image in folder.images if image.caption]
            without = [image for image in captioned if trigger not in words_of(image.caption or "")]
            having = f"{len(captioned) - len(without)} of {len(captioned)}"
            yield from (_missing(image, trigger, having) for image in without)


def _missing(image: SeenImage, trigger: str, having: str) -> Finding:
    place = str(image.caption_files[0] if image.caption_files else image.path)
    return Finding(
        kind=kinds.TRIGGER_MISSING,
        place=place,
        message=f"no '{trigger}', which {having} captions of the folder have",
        remedy=f"put it into the caption; data.token={trigger} puts it in where it is missing",
        script=("put_first", place, trigger) if image.caption_files else (),
    )


def trigger_words(survey: Survey) -> Iterator[Finding]:
    """Judge trigger words: a common one has a meaning already, a long one is cut into many pieces."""
    for folder in survey.read_folders("training"):
        trigger = find_trigger(folder, survey.options)
        if trigger in COMMON:
            yield Finding(
                kind=kinds.TRIGGER_COMMON,
                place=str(folder.path),
                message=f"the trigger word '{trigger}' is a common word",
                remedy="choose one that means nothing yet, e.g. zwx, and keep the class word behind it: zwx dog",
            )
        count = survey.run.tokens.count_tokens(trigger) if trigger else 0
        if count > _MOST_TOKENS:
            about = "about " if survey.run.is_estimate else ""
            yield Finding(
                kind=kinds.TRIGGER_SPLITS,
                place=str(folder.path),
                message=f"the trigger word '{trigger}' is cut into {about}{count} tokens",
                remedy=f"choose a shorter one, of {_MOST_TOKENS} tokens at most",
            )


def words_of(text: str) -> list[str]:
    """Give the words of a text in lower case, no punctuation."""
    return [word.casefold() for word in _WORD.findall(text)]


def _first_tags(captions: Sequence[str], separator: str) -> list[str]:
    """Give the tag that most captions begin with, where they are lists of tags."""
    if not is_tagged(captions, separator):
        return []
    tags = Counter(tags[0].casefold() for caption in captions if (tags := tags_of(caption, separator)))
    tag, count = tags.most_common(1)[0]
    return [tag] if count >= _MOST * len(captions) and not tag[0].isdigit() else []
