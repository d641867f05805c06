"""Captions of visits: each folder's rules, then the method's own form, then perhaps none at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.data.captions.treating import Rules, is_dropped, possible_captions, treat_caption
from sdtune.data.captions.visit_draws import VisitDraws

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sdtune.data.index.building import DataIndex
    from sdtune.data.types import Subset, Visit

    CaptionHook = Callable[[str, Subset], Sequence[str]]


def keep_caption(text: str, subset: Subset) -> tuple[str]:
    """Leave a caption as it is: the caption hook of a method that has none of its own."""
    return (text,)


class Captioner:
    """Give the caption of any visit; the same visit of the same epoch has the same one, in any order and any process.

    Args:
        index: The data set.
        seed: The run's seed.
        method_captions: The method's treatment of captions, e.g. `Method.captions`; regularization keeps its own.
        steps: Optimizer steps of the run, for what grows with them.
        keeps_brackets: Brackets in captions are weights.
        is_calm: Captions are whole, as for measurements; see `Rules.calm`.
    """

    def __init__(
        self,
        index: DataIndex,
        seed: int,
        *,
        method_captions: CaptionHook = keep_caption,
        steps: int = 0,
        keeps_brackets: bool = False,
        is_calm: bool = False,
    ) -> None:
        self._index = index
        self._seed = seed
        self._hook = method_captions
        rules = {own.name: Rules.of(own, steps=steps, keeps_brackets=keeps_brackets) for own in index.subsets}
        self._rules = {name: own.calm() for name, own in rules.items()} if is_calm else rules

    def caption(self, visit: Visit, epoch: int, step: int = 0) -> str:
        """Give a visit's caption: treated as its folder's options say, then by the method, then dropped as a whole.

        The method comes after the shuffle, so that words it puts in stay together, and before the drop, so that a
        dropped caption is empty for every method.

        Args:
            visit: One of an epoch.
            epoch: Epoch, from 0.
            step: Optimizer step, from 0.
        """
        record = self._index.images[visit.image]
        rules = self._rules[record.subset.name]
        draws = VisitDraws(seed=self._seed, epoch=epoch, sample_id=visit.sample_id, step=step)
        if is_dropped(rules.options, draws):
            return ""
        text = treat_caption(record.caption, rules, draws)
        return draws.choose("caption_form", self._method_forms(text, record.subset))

    def fixed(self) -> tuple[str, ...] | None:
        """List every caption that any epoch can have, once each; None when there are too many to list."""
        found: dict[str, None] = {}
        dropped: dict[str, None] = {}
        images = self._index.images
        for subset, caption in dict.fromkeys(zip(images.subsets, images.captions, strict=True)):
            rules = self._rules[subset.name]
            captions = possible_captions(caption, rules)
            if captions is None:
                return None
            found |= dict.fromkeys(form for text in captions for form in self._method_forms(text, subset))
            dropped |= {"": None} if rules.drops_captions else {}
        return tuple(found | dropped)

    def _method_forms(self, text: str, subset: Subset) -> Sequence[str]:
        return (text,) if subset.is_regularization else self._hook(text, subset)
