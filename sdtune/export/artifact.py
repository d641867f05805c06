"""Files to be: what a method gives, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

ArtifactKind = Literal["lora", "embedding", "hypernetwork", "checkpoint"]
KIND_TITLES: Mapping[ArtifactKind, str] = {
    "lora": "LoRA",
    "embedding": "embedding",
    "hypernetwork": "hypernetwork",
    "checkpoint": "whole model",
}
PICKLED_KINDS: frozenset[ArtifactKind] = frozenset({"embedding", "hypernetwork"})  # their usual file is a `.pt` in fp32


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A `.safetensors` file.

    Attributes:
        kind: Decides the folder in a webui.
        stem: File name without suffix.
        tensors: Name to tensor, any float dtype; cast to `save.dtype` when written, except names in `keep_dtype`.
        metadata: The method's own `ss_*` entries, strings; the core adds the rest.
        keep_dtype: Suffixes of tensor names that keep their dtype, e.g. (".alpha",).
        architecture_suffix: Added to `modelspec.architecture`, e.g. "/lora"; empty for a checkpoint.
        is_delivered: A webui gets it; False: it stays in the run's folder, as another form of a file that is delivered.
    """

    kind: ArtifactKind
    stem: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    keep_dtype: tuple[str, ...] = ()
    architecture_suffix: str = ""
    is_delivered: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PickledArtifact:
    """A `.pt` file that webui's safe loader and `torch.load(weights_only=True)` accept.

    Attributes:
        kind: Decides the folder in a webui.
        stem: File name without suffix.
        content: dict, list, tuple, str, int, float, bool, None, OrderedDict and tensors, nested; written as they are.
        suffix: `.pt`, or e.g. `.pt.optim`.
        is_delivered: A webui gets it.
    """

    kind: ArtifactKind
    stem: str
    content: Mapping[Any, Any]
    suffix: str = ".pt"
    is_delivered: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class BytesArtifact:
    """A file of any other form, e.g. a PNG card or a `.yaml` beside a checkpoint.

    Attributes:
        kind: Decides the folder in a webui.
        stem: File name without suffix.
        suffix: Such as `.png`.
        content: The whole file.
        is_delivered: A webui gets it.
    """

    kind: ArtifactKind
    stem: str
    suffix: str
    content: bytes
    is_delivered: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderArtifact:
    """A folder, such as a diffusers model; it stays in the run's folder.

    Attributes:
        kind: What it is.
        stem: Name of the folder.
        files: Path inside with `/` to tensors (a `.safetensors` file, cast to `save.dtype`), or to bytes.
    """

    kind: ArtifactKind
    stem: str
    files: Mapping[str, Mapping[str, Tensor] | bytes]
    is_delivered: Literal[False] = False


AnyArtifact = Artifact | PickledArtifact | BytesArtifact | FolderArtifact
