"""Files to be: what a conversion gives, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from sdtune.formats.facts import Family, FileFacts
    from sdtune.models.open import Families

Form = Literal["webui", "kohya", "diffusers", "hcp", "folder"]
Precision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be made.

    Attributes:
        source: What is converted.
        target: File or folder to be.
        to: Whose form; None: the target's suffix and the source decide.
        dtype: What floating tensors are cast to; None: as stored.
        second: HCP-Diffusion's file of the text encoder, where `source` is that of the UNet.
        family: Family of the model, where the source does not tell.
        keeps_alpha: Of diffusers' LoRA: alpha goes into the metadata instead of into `lora_B`.
        tokenizer: Folder of the model's tokenizer, for diffusers folders; None: as the model has it, else CLIP's.
        registry: The model families there are.
    """

    source: FileFacts
    target: Path
    to: Form | None = None
    dtype: Precision | None = None
    second: FileFacts | None = None
    family: Family | None = None
    keeps_alpha: bool = False
    tokenizer: Path | None = None
    registry: Families | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorsOutput:
    """A `.safetensors` file.

    Attributes:
        path: The file.
        tensors: Name to tensor, contiguous, on the CPU.
        metadata: All but the hashes.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PickledOutput:
    """A `.pt` file of plain containers and tensors."""

    path: Path
    content: Mapping[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BytesOutput:
    """A file of any other form."""

    path: Path
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderOutput:
    """A diffusers folder: path inside with `/` to tensors or bytes."""

    path: Path
    files: Mapping[str, Mapping[str, Tensor] | bytes]


Output = TensorsOutput | PickledOutput | BytesOutput | FolderOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A source in its new form.

    Attributes:
        outputs: The files.
        lines: What was done, in plain words: one sentence a line.
    """

    outputs: Sequence[Output]
    lines: Sequence[str] = field(default=())
