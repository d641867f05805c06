"""What a program makes of a file: which keys it uses, which it passes over, and what becomes of the weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from textwrap import shorten
from typing import TYPE_CHECKING

from sdtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import Tensor, nn

    from sdtune.export.artifact import ArtifactKind
    from sdtune.models.base import DiffusionModel

PICTURES = frozenset({".png", ".webp"})
_MOST_CHARACTERS = 160  # of a program's own words


class NeverError(ValueError):
    """A program cannot compute such a change by its nature, however well the file is made."""


Change = Callable[["Tensor"], "Tensor"]
"""From a weight of the base model (float32) to the weight a program computes with; raises where it cannot."""

Group = Mapping[str, "Tensor"]
"""The tensors of one layer in an adapter's file, by what follows the first dot of the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A weight that a program changes.

    Attributes:
        target: The weight: `unet.`, `vae.`, `text_encoder.text_model.` or `text_encoder_2.` and diffusers' name.
        keys: Keys of the file it takes for it.
        change: What it does.
    """

    target: str
    keys: tuple[str, ...]
    change: Change


@dataclass(slots=True, kw_only=True)
class Reading:
    """A file as one program reads it.

    Attributes:
        uses: Weights it changes.
        used: Keys that are used beside those of `uses`.
        skipped: Key to reason: it has no effect, though the program knows files of this kind.
        unknown: Key to reason: the program knows nothing of the sort.
        refused: Why the program does not load the file at all; empty when it does.
        unsupported: Why the program never loads files of this kind; empty when it does.
        weakness: Why the program, by its nature, may do something else with a file of this form, however well it is
            made; it counts where the effect is another. Empty: no reason is known.
        mistake: What the program takes the file for, and it is not; empty when it makes no mistake.
        predicts: Of a checkpoint: what the program takes the model to predict, and how it knows.
        words: Word to text encoder (`clip_l`, `clip_g`) to (n, D) vectors.
        contexts: Width of contexts to the networks before keys and before values.
    """

    uses: list[Use] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    refused: str = ""
    unsupported: str = ""
    weakness: str = ""
    mistake: str = ""
    predicts: str = ""
    words: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    contexts: Mapping[int, tuple[nn.Module, nn.Module]] = field(default_factory=dict)

    def used_keys(self) -> set[str]:
        """Give all keys that have an effect, or are known to need none."""
        if self.refused or self.unsupported:
            return set()
        taken = {key for use in self.uses for key in use.keys} | self.used
        return taken - self.skipped.keys() - self.unknown.keys()

    def skip(self, keys: Iterable[str], reason: str) -> None:
        """Note keys without effect; the first reason stays."""
        for key in keys:
            self.skipped.setdefault(key, reason)


@dataclass(frozen=True, kw_only=True)
class BaseView:
    """The base model as far as names and shapes go.

    Attributes:
        family: `sd1`, `sd2` or `sdxl`.
        shapes: Name of each weight, as `Use.target`, to its shape in diffusers' modules.
    """

    family: str
    shapes: Mapping[str, tuple[int, ...]]

    @cached_property
    def layers(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Layer to the shapes of its `weight` and `bias`."""
        found: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
        for name, shape in self.shapes.items():
            layer, _, leaf = name.rpartition(".")
            found[layer][leaf] = shape
        return dict(found)

    def of(self, part: str) -> list[str]:
        """List the layers of `unet`, `vae`, `text_encoder` or `text_encoder_2`, without its name."""
        prefix = f"{part}."
        return [layer.removeprefix(prefix) for layer in self.layers if layer.startswith(prefix)]


@dataclass(frozen=True, kw_only=True)
class File:
    """A file to be read.

    Attributes:
        path: Where it is.
        kind: What it is.
        tensors: Of a safetensors file: name to tensor, read when asked for.
        metadata: Of a safetensors file.
    """

    path: Path
    kind: ArtifactKind
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def groups(self) -> dict[str, Group]:
        """Layer to its tensors, split at the first dot; no tensor is in two groups."""
        found: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for key, tensor in self.tensors.items():
            layer, _, name = key.partition(".")
            found[layer][name] = tensor
        return dict(found)

    @property
    def is_hollow(self) -> bool:
        """Whether its matrices have shapes and no values, since they are not trained yet."""
        return any(tensor.is_meta for tensor in self.tensors.values())

    @property
    def is_pickled(self) -> bool:
        """Whether it is a `.pt`."""
        return self.path.suffix not in {".safetensors", *PICTURES}

    @property
    def is_picture(self) -> bool:
        """Whether it is a picture that holds an embedding."""
        return self.path.suffix in PICTURES


Reader = Callable[[File, BaseView, "DiffusionModel"], Reading]


def open_file(path: Path, kind: ArtifactKind) -> File:
    """Open a file; tensors of a safetensors file stay on the disk until they are used.

    Raises:
        ModelError: It is no safetensors file, though it is called one.
    """
    if path.suffix != ".safetensors":
        return File(path=path, kind=kind)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
            return File(path=path, kind=kind, tensors=tensors, metadata=file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot read {path} as a safetensors file: {error}") from error


def unpickle(path: Path) -> Mapping[object, object]:
    """Read a `.pt` file as torch reads what it does not trust; ComfyUI, kohya's scripts and diffusers do.

    Raises:
        ModelError: It cannot be read, or holds no dictionary.
    """
    import pickle

    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: torch finds more than plain data in it, or it is damaged") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}, not a dictionary")
    return content


def first_lines(error: BaseException) -> str:
    """Give an error's first line, and the next where the first ends with a colon; some programs list every layer."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return shorten(" ".join(lines[: 2 if lines[0].endswith(":") else 1]), _MOST_CHARACTERS, placeholder=" ...")


def plural(count: int, what: str) -> str:
    """Spell a count."""
    return f"{count} {what}" + ("" if count == 1 else "s")
