"""The text encoder's answers, computed once for each distinct caption."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sdtune.data.tensor_store import content_key
from sdtune.errors import NumericsError, PlatformError
from sdtune.models.base import Conditioning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from sdtune.data.tensor_store import TensorStore

    EncodePrompt = Callable[[Sequence[str]], Conditioning]
    OnProgress = Callable[[int, int], None]


class TextCache:
    """Hidden states of captions, for runs that do not train the text encoder.

    Args:
        store: Where entries are kept.
        text_encoder_digest: Digest of the text encoder's weights.
        clip_skip: Which hidden state is used.
        dtype: Dtype the text encoder computes in.
    """

    def __init__(self, store: TensorStore, *, text_encoder_digest: str, clip_skip: int, dtype: torch.dtype) -> None:
        self._store = store
        self._facts = ("text", text_encoder_digest, clip_skip, str(dtype))

    def key(self, caption: str) -> str:
        """Hash everything an entry depends on."""
        return content_key(*self._facts, caption)

    def missing(self, captions: Iterable[str]) -> tuple[str, ...]:
        """List the distinct captions without a sound entry; when there are none, no text encoder is needed."""
        return tuple(caption for caption in dict.fromkeys(captions) if self._load(caption) is None)

    def fill(self, captions: Sequence[str], encode: EncodePrompt, *, on_progress: OnProgress | None = None) -> None:
        """Encode captions one by one and keep each answer at once.

        Args:
            captions: What `missing` gave.
            encode: B captions to their conditioning, in eval mode.
            on_progress: Called with the number of captions done and the number of all.

        Raises:
            NumericsError: Hidden states that are not finite.
        """
        for done, caption in enumerate(captions, start=1):
            with torch.no_grad():
                cond = encode([caption])
            self._store.save(self.key(caption), _checked(cond, caption))
            if on_progress is not None:
                on_progress(done, len(captions))

    def get(self, captions: Sequence[str]) -> Conditioning:
        """Give the conditioning of B captions; `time_ids` are never cached.

        Raises:
            PlatformError: An entry is gone or damaged since `fill`.
        """
        entries = [self._entry(caption) for caption in captions]
        pooled = torch.stack([entry["pooled"] for entry in entries]) if "pooled" in entries[0] else None
        return Conditioning(hidden=torch.stack([entry["hidden"] for entry in entries]), pooled=pooled)

    def _entry(self, caption: str) -> dict[str, Tensor]:
        entry = self._load(caption)
        if entry is None:
            raise PlatformError(
                f"the cached text of {caption[:60]!r} is gone or damaged", hint="resume: it is encoded again"
            )
        return entry

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
