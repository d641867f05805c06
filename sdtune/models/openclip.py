"""OpenCLIP's layout of a text encoder, as SD2's and SDXL's single files hold it, beside that of transformers.

OpenCLIP keeps the three projections of an attention in one tensor, in the order q, k, v, and its text projection is the
transpose of a linear layer's weight: it computes x @ P where transformers computes x @ W.T.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdtune.models.naming import Renaming

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from sdtune.models.tensors import Entry

PROJECTION = "text_projection.weight"
_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_FUSED = ("q", "k", "v")
_FUSED_NAME = re.compile(r"text_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class Layers:
    """The names of a text encoder of so many layers, both ways."""

    count: int

    def locate(self, entries: Mapping[str, Entry]) -> dict[str, Entry]:
        """Find canonical weights in a file: a projection is a third of its fused tensor, which lies in one piece.

        Args:
            entries: OpenCLIP's names (no prefix) to places in the file.

        Returns:
            Canonical name to place. Layers from `count` on, and what is no weight of a layer, are left out.
        """
        back = self._renaming().inverse
        found: dict[str, Entry] = {}
        for name, entry in entries.items():
            if match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name):
                if int(match[1]) < self.count:
                    found.update(_thirds(int(match[1]), match[2], entry))
                continue
            try:
                found[back(name)] = entry
            except KeyError:  # a layer beyond, or a training leftover
                continue
        return found

    def encode(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give canonical weights OpenCLIP's names and shapes.

        Raises:
            KeyError: A weight has no place there.
        """
        import torch

        rename = self._renaming()
        tensors: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            if match := _FUSED_NAME.fullmatch(name):
                if match[2] == "q":
                    siblings = (name.replace(".q_proj.", f".{letter}_proj.") for letter in _FUSED)
                    fused = torch.cat([weights[sibling] for sibling in siblings])
                    tensors[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[3]}"] = fused
            else:
                tensors[rename(name)] = tensor.T.contiguous() if name == PROJECTION else tensor
        return tensors

    def repeat_last(self, tensors: Mapping[str, Tensor], times: int) -> dict[str, Tensor]:
        """Add layers that nobody computes and readers miss: the last one again.

        Args:
            tensors: As `encode` gives them.
            times: How many.
        """
        last = f"transformer.resblocks.{self.count - 1}."
        own = {name.removeprefix(last): tensor for name, tensor in tensors.items() if name.startswith(last)}
        return {
            f"transformer.resblocks.{self.count + i}.{name}": tensor.clone()
            for i in range(times)
            for name, tensor in own.items()
        }

    def _renaming(self) -> Renaming:
        return Renaming(dict(self._pairs()))

    def _pairs(self) -> Iterator[tuple[str, str]]:
        yield "text_model.embeddings.token_embedding", "token_embedding"
        yield "text_model.embeddings.position_embedding.weight", "positional_embedding"
        yield "text_model.final_layer_norm", "ln_final"
        yield PROJECTION, "text_projection"
        for i in range(self.count):
            for ours, theirs in _LAYER.items():
                yield f"text_model.encoder.layers.{i}.{ours}", f"transformer.resblocks.{i}.{theirs}"


def is_transposed(name: str) -> bool:
    """Tell whether OpenCLIP holds the transpose of a canonical weight."""
    return name == PROJECTION


def _thirds(layer: int, leaf: str, entry: Entry) -> Iterator[tuple[str, Entry]]:
    rows = entry.shape[0] // 3
    for i, letter in enumerate(_FUSED):
        yield f"text_model.encoder.layers.{layer}.self_attn.{letter}_proj.{leaf}", entry.rows(i * rows, rows)
