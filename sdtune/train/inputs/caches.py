"""The caches of a run: what they hold of what the run will ask for, and the filling of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from sdtune.data.caches.latents import LatentCache
from sdtune.data.caches.tensor_store import open_store
from sdtune.data.caches.text import TextCache
from sdtune.train.space import cache_modes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sdtune.data.caches.latents import LatentItem
    from sdtune.data.caches.tensor_store import TensorStore
    from sdtune.train.run import Run

    OnProgress = Callable[[str, int, int], None]

W = TypeVar("W")


class Cache(Protocol[W]):
    """What caches of both kinds can tell."""

    def missing(self, items: Sequence[W], /) -> Sequence[W]:
        """List what has no sound entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a run asks of its caches.

    Attributes:
        captions: Captions and prompts; None: text is not cached.
        latents: Pictures; None: latents are not cached.
    """

    captions: Sequence[str] | None
    latents: Sequence[LatentItem] | None


class RunCaches:
    """The caches of a run, opened and looked through; every entry that the run will use is read.

    Of several processes each looks after its share of the caches on disk, and after all of those in memory. A cache
    that is to be kept where it fits (`auto`) stays on disk when all of it is there already.

    Attributes:
        texts: Cache of text; None: there is none.
        latents: Cache of latents; None: there is none.
        missing_texts: This process's captions without an entry.
        missing_latents: This process's pictures without an entry.
    """

    def __init__(self, run: Run, wanted: Wanted) -> None:
        self._run = run
        self._modes = cache_modes(run)
        self.texts, self.missing_texts = self._open("text", wanted.captions, self._make_texts)
        self.latents, self.missing_latents = self._open("latents", wanted.latents, self._make_latents)

    def fill(self, on_progress: OnProgress) -> None:
        """Encode what is missing.

        Args:
            on_progress: Called with what is cached, how many are done, and of how many.

        Raises:
            DataError: An image is damaged, or its latents are not finite.
            NumericsError: A caption's hidden states are not finite.
            PlatformError: The cache cannot be written.
        """
        model, data = self._run.model, self._run.options.data
        if self.texts is not None and self.missing_texts:
            model.load("text_encoder")
            self.texts.fill(
                self.missing_texts,
                model.encode_prompt,
                on_progress=lambda done, count: on_progress("text", done, count),
            )
        if self.latents is not None and self.missing_latents:
            model.load("vae")
            self.latents.fill(
                self.missing_latents,
                lambda pixels: model.encode_images(pixels.to(self._run.device)),
                batch_size=data.cache.vae_batch_size,
                workers=data.workers,
                on_progress=lambda done, count: on_progress("latents", done, count),
            )

    def _open(
        self, kind: Literal["text", "latents"], wanted: Sequence[W] | None, make: Callable[[TensorStore], Cache[W]]
    ) -> tuple[Any, Sequence[W]]:
        """Open one of the caches, and list what this process is to put into it."""
        options, ranks, mode = self._run.options.data.cache, self._run.ranks, self._modes[kind]
        if wanted is None or mode == "off":
            return None, ()
        asked = options.text if kind == "text" else options.latents
        if mode == "disk" or asked == "auto":
            cache = make(open_store("disk", kind, options))
            missing = cache.missing(ranks.share(wanted))
            if mode == "disk" or not ranks.any(bool(missing)):
                return cache, missing
        cache = make(open_store("ram", kind, options))
        return cache, cache.missing(wanted)

    def _make_texts(self, store: TensorStore) -> TextCache:
        return TextCache(store, self._run.model.text_digest)

    def _make_latents(self, store: TensorStore) -> LatentCache:
        model = self._run.model
        return LatentCache(
            store,
            vae_digest=model.part_digest("vae"),
            dtype=model.dtype_of("vae"),
            alpha_color=self._run.options.data.alpha_color,
        )
