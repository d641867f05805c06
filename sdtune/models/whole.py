"""A whole model as it would be written: webui's single file with what lies beside it, or a diffusers folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdtune.models import build, snapshot
from sdtune.models.architecture import count_rows
from sdtune.models.prediction import V_MARK, ZERO_SNR_MARK
from sdtune.models.quantize import packed_names
from sdtune.models.storage import CONFIG_KEY, to_webui
from sdtune.models.tokenizer import OPENCLIP_PAD, find_tokenizer, tokenizer_files
from sdtune.models.vocabulary import END

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from sdtune.models.architecture import SDFamily
    from sdtune.models.base import Component, ModelSource, Prediction
    from sdtune.models.storage import StoredModel, StoredPart


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeModel:
    """A model and how its files tell what it is.

    Attributes:
        source: Where it came from.
        family: Its family.
        storage: Its components as stored.
        modules: Its loaded components by name; the others are as stored.
        prediction: What the UNet predicts.
        has_zero_snr: Its noise schedule ends in pure noise.
        scaling_factor: Of the latents.
        is_hollow: Files hold names and shapes, see `DiffusionModel.hollow_files`.
    """

    source: ModelSource
    family: SDFamily
    storage: StoredModel
    modules: Mapping[str, nn.Module | None]
    prediction: Prediction
    has_zero_snr: bool
    scaling_factor: float
    is_hollow: bool = False

    def webui_state_dict(self) -> dict[str, Tensor]:
        """See `DiffusionModel.webui_state_dict`."""
        tensors: dict[str, Tensor] = {}
        for component in self.family.components:
            tensors.update(to_webui(component, self._weights(component), self.family))
            prefix, extras = self.family.prefix(component), self._extras(component)
            tensors.update({prefix + name: tensor for name, tensor in extras.items()})
        marks = {V_MARK: self.prediction == "v_prediction", ZERO_SNR_MARK: self.has_zero_snr}
        return tensors | {name: torch.zeros(0) for name, is_set in marks.items() if is_set}

    def webui_sidecars(self) -> dict[str, bytes]:
        """See `DiffusionModel.webui_sidecars`: without one A1111 takes a model to predict noise; it knows no x_0."""
        if self.prediction != "v_prediction":
            return {}
        unet, vae = self._empty("unet"), self._empty("vae")
        return snapshot.sidecar_files(self.family, unet, vae, self.scaling_factor, self.prediction)

    def webui_metadata(self) -> dict[str, str]:
        """See `DiffusionModel.webui_metadata`."""
        configs = {component: dict(part.config) for component, part in self.storage.components.items() if part.config}
        return {CONFIG_KEY: json.dumps(configs)} if configs else {}

    def diffusers_files(self) -> dict[str, Mapping[str, Tensor] | bytes]:
        """See `DiffusionModel.diffusers_files`."""
        files: dict[str, Mapping[str, Tensor] | bytes] = {}
        for component in self.family.components:
            files |= snapshot.part_files(component, self._empty(component), self._weights(component))
        rows = count_rows(self.storage.components["text_encoder"].shapes)
        tokenizer = find_tokenizer(self.source.path, self.source.options.tokenizer, rows)
        for text in self.family.texts:
            folder = snapshot.tokenizer_folder(text.component)
            own = tokenizer_files(tokenizer, pad=END if text.pads_with_end else OPENCLIP_PAD)
            files |= {f"{folder}/{name}": content for name, content in own.items()}
        return files | snapshot.pipeline_files(
            self.family, self.storage.scheduler, self.prediction, is_zero_snr=self.has_zero_snr
        )

    def _empty(self, component: Component) -> nn.Module:
        return build.build_empty(self.storage.components[component], self.family)

    def _extras(self, component: Component) -> Mapping[str, Tensor]:
        stored = self.storage.components[component]
        if self.is_hollow:
            return {name: torch.empty(entry.shape, device="meta") for name, entry in stored.extras.items()}
        return stored.read_extras()

    def _weights(self, component: Component) -> Mapping[str, Tensor]:
        """Map canonical names to the tensors of a component, loaded or stored."""
        stored, module = self.storage.components[component], self.modules.get(component)
        if self.is_hollow:
            return {name: _hollow(stored, name, shape) for name, shape in stored.shapes.items()}
        if module is None:
            return {name: stored.read(name) for name in stored.entries}
        prefix = build.module_prefix(module, component)
        held = {prefix + name: stored.unround(prefix + name, t) for name, t in module.state_dict().items()}
        return held | {name: stored.read(name) for name in packed_names(module, prefix)}


def _hollow(stored: StoredPart, name: str, shape: tuple[int, ...]) -> Tensor:
    """Read biases and gains, by which programs tell models apart; of a matrix give the shape."""
    return stored.read(name) if len(shape) < 2 else torch.empty(shape, device="meta")
