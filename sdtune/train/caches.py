"""The caches of a run: what they hold of what the run will ask for, and the filling of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdtune.data.cache import LatentCache
from sdtune.data.tensor_store import open_store
from sdtune.data.text_cache import TextCache
from sdtune.train.space import cache_modes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sdtune.data.cache import LatentItem
    from sdtune.train.run import Run

    OnProgress = Callable[[str, int, int], None]


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

    Of several processes each looks after its share of the caches on disk, and after all of those in memory.

    Attributes:
        texts: Cache of text; None: there is none.
        latents: Cache of latents; None: there is none.
        missing_texts: This process's captions without an entry.
        missing_latents: This process's pictures without an entry.
    """

    def __init__(self, run: Run, wanted: Wanted) -> None:
        self._run = run
        self._modes = cache_modes(run)
        self.texts, self.missing_texts = self._open_texts(wanted.captions)
        self.latents, self.missing_latents = self._open_latents(wanted.latents)

    def fill(self, on_progress: OnProgress) -> None:
        """Encode what is missing.

        Args:
            on_progress: Called with what is cached, how many are done, and of how many.

        Raises:
            DataError: An image is damaged, or its latents are not finite.
            NumericsError: A caption's hidden states are not finite.
            PlatformError: The cache cannot be written.
        """
        model = self._run.model
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
                batch_size=self._run.options.data.cache.vae_batch_size,
                workers=self._run.options.data.workers,
                on_progress=lambda done, count: on_progress("latents", done, count),
            )

    def _open_texts(self, captions: Sequence[str] | None) -> tuple[TextCache | None, Sequence[str]]:
        mode = self._modes["text"]
        if captions is None or mode == "off":
            return None, ()
        cache = TextCache(open_store(mode, "text", self._run.options.data.cache), self._run.model.text_digest)
        own = self._run.ranks.share(captions) if mode == "disk" else captions
        return cache, cache.missing(own)

    def _open_latents(self, items: Sequence[LatentItem] | None) -> tuple[LatentCache | None, Sequence[LatentItem]]:
        mode = self._modes["latents"]
        if items is None or mode == "off":
            return None, ()
        model, data = self._run.model, self._run.options.data
        cache = LatentCache(
            open_store(mode, "latents", data.cache),
            vae_digest=model.part_digest("vae"),
            dtype=model.dtype_of("vae"),
            alpha_color=data.alpha_color,
        )
        own = self._run.ranks.share(items) if mode == "disk" else items
        return cache, cache.missing(own)
