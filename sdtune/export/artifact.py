"""A file to be: tensors and metadata, before they are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

ArtifactKind = Literal["lora", "embedding", "hypernetwork", "checkpoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One exported file.

    Attributes:
        kind: Decides the folder in a webui.
        stem: File name without suffix.
        tensors: Name to tensor, any float dtype; cast to `save.dtype` when written, except names in `keep_dtype`.
        metadata: The method's own `ss_*` entries, strings; the core adds the rest.
        keep_dtype: Suffixes of tensor names that keep their dtype, e.g. (".alpha",).
        architecture_suffix: Added to `modelspec.architecture`, e.g. "/lora"; empty for a checkpoint.
    """

    kind: ArtifactKind
    stem: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    keep_dtype: tuple[str, ...] = ()
    architecture_suffix: str = ""
