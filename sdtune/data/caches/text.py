"""The text encoder's answers, computed once for each distinct caption."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sdtune.data.caches.tensor_store import content_key, pack_keys
from sdtune.errors import NumericsError, PlatformError
from sdtune.models.base import Conditioning, join_conditionings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from sdtune.data.caches.tensor_store import TensorStore

    EncodePrompt = Callable[[Sequence[str]], Conditioning]
    OnProgress = Callable[[int, int], None]


class TextCache:
    """Hidden states of captions, for runs that do not train the text encoder.

    Args:
        store: Where entries are kept.
        text_digest: `DiffusionModel.text_digest`, which stands for everything an answer depends on but the caption.
    """

    def __init__(self, store: TensorStore, text_digest: str) -> None:
        self._store = store
        self._text_digest = text_digest

    def key(self, caption: str) -> str:
        """Hash everything an entry depends on."""
        return content_key("text", self._text_digest, caption)

    def missing(self, captions: Iterable[str]) -> tuple[str, ...]:
        """List the distinct captions without a sound entry; when there are none, no text encoder is needed."""
        distinct = tuple(dict.fromkeys(captions))
        lacking = self._store.missing(pack_keys(self.key(caption) for caption in distinct))
        return tuple(distinct[number] for number in lacking)

    def fill(self, captions: Sequence[str], encode: EncodePrompt, *, on_progress: OnProgress | None = None) -> None:
        """Encode captions one by one and keep the answers, so that a stopped fill goes on where it was.

        Args:
            captions: What `missing` gave.
            encode: B captions to their conditioning, in eval mode.
            on_progress: Called with the number of captions done and the number of all.

        Raises:
            NumericsError: Hidden states that are not finite.
            PlatformError: The store cannot keep them.
        """
        try:
            for done, caption in enumerate(captions, start=1):
                with torch.no_grad():
                    cond = encode([caption])
                self._store.save(self.key(caption), _checked(cond, caption))
                if on_progress is not None:
                    on_progress(done, len(captions))
        finally:
            self._store.flush()

    def get(self, captions: Sequence[str]) -> Conditioning:
        """Give the conditioning of B captions, masked where their lengths differ; `time_ids` are never cached.

        Raises:
            PlatformError: An entry is gone or damaged since `fill`.
        """
        return join_conditionings([self._entry(caption) for caption in captions])

    def _entry(self, caption: str) -> Conditioning:
        entry = self._load(caption)
        if entry is None:
            raise PlatformError(
                f"the cached text of {caption[:60]!r} is gone or damaged", hint="resume: it is encoded again"
            )
        pooled = entry["pooled"][None] if "pooled" in entry else None
        return Conditioning(hidden=entry["hidden"][None], pooled=pooled)

    def _load(self, caption: str) -> dict[str, Tensor] | None:
        entry = self._store.load(self.key(caption))
        return entry if entry is not None and "hidden" in entry else None


def _checked(cond: Conditioning, caption: str) -> dict[str, Tensor]:
    tensors = {"hidden": cond.hidden[0]} | ({} if cond.pooled is None else {"pooled": cond.pooled[0]})
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise NumericsError(
            f"the text encoder gives numbers that are not finite for {caption[:60]!r}",
            hint="try train.precision=fp32",
        )
    return tensors
