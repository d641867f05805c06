"""A caption's way from what was found to what the text encoder gets: a row of small steps, each a pure function.

    WORDED    draw_line       one of its lines                    `caption_lines: draw`
              fill_prompt     into the folder's prompt            `prompt`
              add_ends        between prefix and suffix           `prefix`, `suffix`
              fill_words      words for placeholders              `words`
              fill_wildcards  one of `{a|b}`                      `wildcards`
              name_subject    the token, where it is missing      `token`, `class_word`
    TREATED   treat_tags      warm-up, dropout, shuffle           `tag_*`, `shuffle_tags`, `keep_*`
              use_template    into a line of a file               `templates`

Then comes the method's own form, and last of all `is_dropped` may empty it. Where nothing of the worded half is drawn,
that half is done once, when the data set is read (`word_once`). Every draw is a function of seed, purpose, epoch and
sample id. Lines, wildcards, tags and separators follow in the order of kohya's scripts, which have none of the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sdtune.config.rates import count_steps
from sdtune.data.captions.prompts import FILEWORDS, fill_template, instance_text
from sdtune.data.captions.tags import drop_tags, first_tags, part_tags, shuffle_tags
from sdtune.data.captions.templates import draw_wildcards, fill_line, put_words, uses_caption
from sdtune.data.captions.visit_draws import Draws, Script, VisitDraws
from sdtune.data.tables.blobs import TextColumn
from sdtune.randomness import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sdtune.config.data import DataOptions
    from sdtune.data.tables.records import ImageTable
    from sdtune.data.types import Subset

_SEED_RANGE = 1 << 63
MOST_FORMS = 64
"""Forms of one caption that are listed for a cache; what has more of them counts as varied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What happens to the captions of a folder.

    Attributes:
        options: The folder's.
        templates: Lines of its file of templates.
        warmup_steps: `tag_warmup` in steps of this run.
        keeps_brackets: Brackets are weights, so that a weighted group is one tag.
    """

    options: DataOptions
    templates: tuple[str, ...] = ()
    warmup_steps: int = 0
    keeps_brackets: bool = False

    @classmethod
    def of(cls, subset: Subset, *, steps: int = 0, keeps_brackets: bool = False) -> Rules:
        """Give a folder's rules.

        Args:
            subset: The folder.
            steps: Optimizer steps of the run.
            keeps_brackets: See `Rules`.
        """
        return cls(
            options=subset.options,
            templates=subset.templates,
            warmup_steps=count_steps(subset.options.tag_warmup, steps),
            keeps_brackets=keeps_brackets,
        )

    def calm(self) -> Rules:
        """Give rules by which captions are whole: no tag is left out or moved, no caption dropped."""
        changes = {"shuffle_tags": False, "tag_dropout": 0.0, "tag_warmup": 0}
        drops = {"caption_dropout": 0.0, "caption_dropout_every_epochs": 0}
        return replace(self, options=self.options.model_copy(update=changes | drops), warmup_steps=0)

    @property
    def words(self) -> dict[str, str]:
        """What stands for placeholders."""
        return {"name": self.options.token, "class": self.options.class_word, **self.options.words}

    @property
    def words_at_once(self) -> bool:
        """Whether the worded half changes captions when a data set is read."""
        own = self.options
        changes = own.prompt is not None or own.token or own.prefix or own.suffix or own.words
        return bool(changes) and not self.is_worded_at_visits

    @property
    def is_worded_at_visits(self) -> bool:
        """Whether something in the worded half is drawn, so that it is done anew at each visit."""
        return self.options.wildcards or self.options.caption_lines == "draw"

    @property
    def drops_captions(self) -> bool:
        """Whether some visits have an empty caption."""
        return bool(self.options.caption_dropout or self.options.caption_dropout_every_epochs)

    @property
    def treats_tags(self) -> bool:
        """Whether tags change from visit to visit."""
        own = self.options
        return bool(own.shuffle_tags or own.tag_dropout or self.warmup_steps)


def needs_caption(options: DataOptions, templates: Sequence[str]) -> bool:
    """Tell whether an image's own caption has a place in what its folder's options make of it."""
    has_prompt = options.prompt is not None and FILEWORDS not in options.prompt
    return not has_prompt and (not templates or any(map(uses_caption, templates)))


def draw_line(text: str, rules: Rules, draws: Draws) -> str:
    """Draw one of the lines."""
    lines = text.split("\n")
    return draws.choose("caption_line", lines) if len(lines) > 1 else text


def fill_prompt(text: str, rules: Rules, draws: Draws) -> str:
    """Put the caption into the folder's prompt."""
    return fill_template(rules.options.prompt, text)


def add_ends(text: str, rules: Rules, draws: Draws) -> str:
    """Put prefix and suffix around it."""
    return " ".join(part for part in (rules.options.prefix, text, rules.options.suffix) if part)


def fill_words(text: str, rules: Rules, draws: Draws) -> str:
    """Put words in the place of placeholders."""
    return put_words(text, rules.words) if rules.options.words else text


def fill_wildcards(text: str, rules: Rules, draws: Draws) -> str:
    """Draw one part of each wildcard."""
    if not rules.options.wildcards:
        return text
    return draw_wildcards(text, lambda number, parts: draws.choose(f"wildcard {number}", parts))


def name_subject(text: str, rules: Rules, draws: Draws) -> str:
    """Put the token in where it is missing; a template does so later."""
    own = rules.options
    if rules.templates or (own.prompt is None and not own.token):
        return text
    return instance_text(text, own.token, own.class_word)


def treat_tags(text: str, rules: Rules, draws: Draws) -> str:
    """Leave tags out and shuffle them; then let a secondary separator be an ordinary one."""
    own = rules.options
    if rules.treats_tags or (own.keep_separator and own.keep_separator in text):
        tags = part_tags(text, own, keeps_brackets=rules.keeps_brackets)
        text = str(replace(tags, free=_treat_free(tags.free, rules, draws)))
    if not own.secondary_separator:
        return text
    return re.sub(rf"\s*{re.escape(own.secondary_separator)}\s*", lambda _: f"{own.tag_separator} ", text)


def _treat_free(tags: Sequence[str], rules: Rules, draws: Draws) -> Sequence[str]:
    """Treat the tags that do not stay in place.

    Dropping before shuffling gives what dropping after it gives: tags are left out alike.
    """
    own = rules.options
    if rules.warmup_steps:
        tags = first_tags(tags, own.tag_warmup_min, draws.step, rules.warmup_steps)
    if own.tag_dropout:
        tags = drop_tags(tags, own.tag_dropout, draws.generator("drop_tags"))
    return shuffle_tags(tags, draws.generator("shuffle_tags")) if own.shuffle_tags else tags


def use_template(text: str, rules: Rules, draws: Draws) -> str:
    """Put the caption into one of the templates' lines, and name the subject in it."""
    if not rules.templates:
        return text
    own = rules.options
    filled = fill_line(draws.choose("template", rules.templates), text, rules.words)
    return instance_text(filled, own.token, own.class_word) if own.token else filled


Stage = Callable[[str, Rules, Draws], str]
WORDED: tuple[Stage, ...] = (draw_line, fill_prompt, add_ends, fill_words, fill_wildcards, name_subject)
TREATED: tuple[Stage, ...] = (treat_tags, use_template)


def word_once(text: str, rules: Rules) -> str:
    """Do the worded half when a data set is read, where it is the same at each visit; else leave it for those."""
    return text if rules.is_worded_at_visits else _pass(text, WORDED, rules, Script())


def treat_caption(text: str, rules: Rules, draws: Draws) -> str:
    """Give the caption of a visit, before the method's own form.

    Args:
        text: What `word_once` gave.
        rules: Its folder's.
        draws: The visit's.
    """
    return _pass(text, (*WORDED, *TREATED) if rules.is_worded_at_visits else TREATED, rules, draws)


def possible_captions(text: str, rules: Rules, most: int = MOST_FORMS) -> tuple[str, ...] | None:
    """List what `treat_caption` can give; None when tags change from visit to visit, or there are more than `most`."""
    if rules.treats_tags:
        return None
    found: list[str] = []
    script: Script | None = Script()
    while script is not None:
        if len(found) == most:
            return None
        found.append(treat_caption(text, rules, script))
        script = script.next()
    return tuple(dict.fromkeys(found))


def example_captions(images: ImageTable) -> Iterator[str]:
    """Give each image's caption as the text encoder may get it, with all its tags; the only one if nothing is drawn."""
    rules = {own.name: Rules.of(own).calm() for own in images.subsets.choices}
    for subset, name, text in zip(images.subsets, images.names, images.captions, strict=True):
        yield treat_caption(text, rules[subset.name], VisitDraws(seed=0, epoch=0, sample_id=name))


def with_examples(images: ImageTable) -> ImageTable:
    """Give images with captions as `example_captions` gives them, for those who look for words in them."""
    return images.replace({"caption": TextColumn.of(example_captions(images))})


def is_dropped(options: DataOptions, draws: VisitDraws) -> bool:
    """Tell whether a visit has an empty caption: by the epoch, counted from 1, or by a share of all visits."""
    every = options.caption_dropout_every_epochs
    if every and (draws.epoch + 1) % every == 0:
        return True
    return draws.derive("caption_dropout") < options.caption_dropout * _SEED_RANGE


def is_flipped(seed: int, epoch: int, sample_id: str) -> bool:
    """Tell whether this visit is mirrored; true for half of all visits."""
    return derive_seed(seed, "flip", epoch, sample_id) % 2 == 1


def _pass(text: str, stages: Sequence[Stage], rules: Rules, draws: Draws) -> str:
    for stage in stages:
        text = stage(text, rules, draws)
    return text
