"""Checks of what captions say: tags that are misspelled, repeated, in every caption, or against each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations
from typing import TYPE_CHECKING

from sdtune.data.check import kinds
from sdtune.data.check.finding import Finding
from sdtune.data.check.survey import is_tagged, tags_of
from sdtune.data.check.trigger import find_trigger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sdtune.data.check.survey import Survey

_FREQUENT = 4  # captions that a word is in before a rare one can be its misspelling
_TIMES = 4  # how much more frequent it is
_SHORTEST, _SHORTEST_OF_TWO, _LONGEST = 5, 8, 40  # letters, for one and for two edits, and for any
_ENOUGH_CAPTIONS = 5
_ENDINGS = ("s", "es", "d", "ed", "ing", "ly", "er", "y", "n")
OPPOSITES = (
    ("long hair", "short hair"), ("day", "night"), ("indoors", "outdoors"), ("open mouth", "closed mouth"),
    ("standing", "sitting"), ("standing", "lying"), ("sitting", "lying"), ("solo", "2girls"), ("solo", "2boys"),
    ("from above", "from below"), ("from front", "from behind"), ("smile", "frown"), ("color", "monochrome"),
    ("colour", "black and white"), ("young", "old"), ("male", "female"), ("closed eyes", "looking at viewer"),
    ("close-up", "full body"), ("summer", "winter"), ("realistic", "cartoon"), ("blurry", "sharp focus"),
)  # fmt: skip


def typos(survey: Survey) -> Iterator[Finding]:
    """Find rare words that are one or two letters away from a frequent one."""
    separator = survey.options.tag_separator
    split = _splitter(survey.captions, separator)
    counts = Counter(word for caption in survey.captions for word in set(split(caption)))
    meant = find_misspelled(counts)
    for place, image in survey.captioned() if meant else ():
        for word in dict.fromkeys(split(image.caption or "")):
            if word in meant:
                yield Finding(
                    kind=kinds.TYPO,
                    place=place,
                    message=f"'{word}' looks like '{meant[word]}', which is in {counts[meant[word]]} captions",
                    remedy="mend it if it is a mistake",
                    script=("replace_word", place, word, meant[word]) if image.caption_files else (),
                )


def find_misspelled(counts: Mapping[str, int]) -> dict[str, str]:
    """Find rare words that look like a frequent one: rare word to the one that may be meant.

    Words that differ in digits or in an ending (dog, dogs) are other words.

    Args:
        counts: Word to the number of captions it is in.
    """
    by_key = defaultdict(list)
    for word, count in counts.items():
        if count >= _FREQUENT and len(word) <= _LONGEST:
            for key in _shortened(word):
                by_key[key].append(word)
    meant = {}
    for word, count in counts.items():
        if not _SHORTEST <= len(word) <= _LONGEST or count >= _FREQUENT:
            continue
        near = {other for key in _shortened(word) for other in by_key.get(key, ())}
        fitting = [other for other in near if counts[other] >= _TIMES * count and _is_misspelling(word, other)]
        if fitting:
            meant[word] = max(fitting, key=lambda other: (counts[other], other))
    return meant


def one_value_tags(survey: Survey) -> Iterator[Finding]:
    """Find tags that every caption has, beside the trigger word."""
    separator = survey.options.tag_separator
    captions = survey.captions
    if len(captions) < _ENOUGH_CAPTIONS or not is_tagged(captions, separator):
        return
    tags = [tags_of(caption, separator) for caption in captions]
    shared = set(tags[0]).intersection(*tags[1:])
    triggers = {find_trigger(folder, survey.options) for folder in survey.read_folders("training")} - {""}
    for tag in [tag for tag in tags[0] if tag in shared]:
        if not any(trigger in tag.casefold() for trigger in triggers):
            yield Finding(
                kind=kinds.ONE_VALUE_TAG,
                place=str(survey.root),
                message=f"'{tag}' is in all {len(captions)} captions",
                remedy="take it out where the trigger word should stand for it; keep it where it should stay a choice",
            )


def repeated_tags(survey: Survey) -> Iterator[Finding]:
    """Find captions that say a tag twice."""
    for place, image in survey.captioned():
        counts = Counter(tag.casefold() for tag in tags_of(image.caption or "", survey.options.tag_separator))
        twice = [tag for tag, count in counts.items() if count > 1]
        if twice:
            yield Finding(
                kind=kinds.REPEATED_TAG,
                place=place,
                message=f"more than once: {', '.join(twice)}",
                remedy="say it once",
                script=("drop_repeated", place) if image.caption_files else (),
            )


def contradictions(survey: Survey) -> Iterator[Finding]:
    """Find captions with two tags that exclude each other."""
    for place, image in survey.captioned():
        tags = {tag.casefold().replace("_", " ") for tag in tags_of(image.caption or "", survey.options.tag_separator)}
        for one, other in OPPOSITES:
            if one in tags and other in tags:
                yield Finding(
                    kind=kinds.CONTRADICTION,
                    place=place,
                    message=f"says '{one}' and '{other}'",
                    remedy="look at the picture, and take the wrong one out",
                )


def distance(one: str, other: str) -> int:
    """Count the letters that are put in, taken out, changed, or swapped with their neighbour (Damerau 1964)."""
    rows = [list(range(len(other) + 1))]
    for i, left in enumerate(one, start=1):
        row = [i]
        for j, right in enumerate(other, start=1):
            best = min(rows[i - 1][j] + 1, row[j - 1] + 1, rows[i - 1][j - 1] + (left != right))
            if i > 1 and j > 1 and left == other[j - 2] and one[i - 2] == right:
                best = min(best, rows[i - 2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


def _splitter(captions: Iterable[str], separator: str) -> Callable[[str], list[str]]:
    """Give what splits captions: into tags where they are lists of tags, else into words."""
    if is_tagged(captions, separator):
        return lambda caption: [tag.casefold() for tag in tags_of(caption, separator)]
    return lambda caption: [word.strip(".,;:!?\"'()").casefold() for word in caption.split()]


def _shortened(word: str) -> set[str]:
    """Give a word and what is left of it without one letter, or two: two words alike share one of them."""
    most = 2 if len(word) >= _SHORTEST_OF_TWO else 1
    places = range(len(word))
    return {
        "".join(letter for place, letter in enumerate(word) if place not in out)
        for count in range(most + 1)
        for out in combinations(places, count)
    }


def _is_misspelling(word: str, usual: str) -> bool:
    if [letter for letter in word if letter.isdigit()] != [letter for letter in usual if letter.isdigit()]:
        return False
    short, long = sorted((word, usual), key=len)
    if any(long == short + ending for ending in _ENDINGS):
        return False
    most = 2 if min(len(word), len(usual)) >= _SHORTEST_OF_TWO else 1
    return distance(word, usual) <= most
