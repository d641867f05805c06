"""What is known about a file: its kind, family and dialect, and its tensors without their values."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sdtune.formats.contents import Contents

Kind = Literal[
    "checkpoint",
    "diffusers_folder",
    "lora",
    "lycoris",
    "embedding",
    "hypernetwork",
    "vae",
    "unet",
    "text_encoder",
    "controlnet",
    "unknown",
]
Dialect = Literal["kohya", "diffusers", "diffusers_old", "hcp", "mixed"]
Family = Literal["sd1", "sd2", "sdxl"]

WIDTH_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """A tensor without its values: dtype by safetensors' name (`F16`), and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of its elements; a dtype that is not known (fp8) counts one byte each."""
        return self.count * WIDTH_BYTES.get(self.dtype, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DtypeShare:
    """How much of a file is of one dtype."""

    tensors: int
    parameters: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What a file is.

    Attributes:
        contents: The file itself, opened: names, metadata, and tensors to be read.
        kind: What it is.
        family: Family of the model it is or belongs to; None when nothing tells.
        family_reason: From what the family is told, e.g. `cross-attention is 768 wide`; or why it is not.
        dialect: Whose names an adapter has; None when the file is no adapter.
        algorithms: Of an adapter, in the order of their share: `lora`, `loha`, `lokr`, `full`, `ia3`, `diag-oft`,
            `boft`, `glora`, `norms`.
    """

    contents: Contents
    kind: Kind
    family: Family | None
    family_reason: str
    dialect: Dialect | None = None
    algorithms: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The file or folder."""
        return self.contents.path

    @property
    def tensors(self) -> Mapping[str, TensorFacts]:
        """Name in the file to tensor; in a folder `PART/NAME`, in a pickle the keys joined by dots."""
        return self.contents.tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's own strings."""
        return self.contents.metadata

    @property
    def parameters(self) -> int:
        """Number of all elements."""
        return sum(tensor.count for tensor in self.tensors.values())

    @property
    def dtypes(self) -> dict[str, DtypeShare]:
        """Dtype by safetensors' name to its share, the largest first."""
        return share_dtypes(self.tensors)


def share_dtypes(tensors: Mapping[str, TensorFacts]) -> dict[str, DtypeShare]:
    """Count tensors, elements and bytes of each dtype, the largest first."""
    counts: Counter[str] = Counter(tensor.dtype for tensor in tensors.values())
    shares = {
        dtype: DtypeShare(
            tensors=count,
            parameters=sum(t.count for t in tensors.values() if t.dtype == dtype),
            size_bytes=sum(t.size_bytes for t in tensors.values() if t.dtype == dtype),
        )
        for dtype, count in counts.items()
    }
    return dict(sorted(shares.items(), key=lambda item: (-item[1].size_bytes, item[0])))
