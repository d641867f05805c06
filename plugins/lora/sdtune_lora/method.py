"""LoRA as a method."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sdtune.api import Artifact, Method, ParamGroup, attach_adapters, derive_generator
from sdtune_lora.config import LoraOptions
from sdtune_lora.files import load_tensors, read_tensors, to_tensors
from sdtune_lora.layers import Dropouts, LoraLayer
from sdtune_lora.plan import LayerPlan, plan_layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from sdtune.api import DiffusionModel, Part, RunInfo


class LoraMethod(Method[LoraOptions]):
    """Train two small matrices beside each chosen layer."""

    kind = "lora"

    def __init__(self, config: LoraOptions) -> None:
        super().__init__(config)
        self._layers: dict[str, LoraLayer] = {}
        self._norms: list[torch.Tensor] = []

    def parts(self) -> Sequence[Part]:
        """List the parts that are trained."""
        chosen: dict[Part, bool] = {"unet": self.config.trains_unet, "text_encoder": self.config.trains_text_encoder}
        return tuple(part for part, is_trained in chosen.items() if is_trained)

    def attach(self, model: DiffusionModel, seed: int) -> Sequence[ParamGroup]:
        """Put a LoRA beside each planned layer; the model's answer stays the same to the last bit.

        Raises:
            ConfigError: Rules or blocks name nothing, or nothing is left to train.
            ModelError: `from_file` does not fit.
        """
        plans = plan_layers(self.config, model.targets(self.parts()))
        self._layers = {plan.target.path: self._make_layer(plan, seed) for plan in plans}
        if self.config.from_file is not None:
            path = self.config.from_file
            load_tensors(self._by_key(model), read_tensors(path), where=str(path))
        attach_adapters(model, self._layers)
        return self._groups(plans)

    def export(self, model: DiffusionModel, run: RunInfo) -> Iterator[Artifact]:
        """Give one file with kohya-style names."""
        yield Artifact(
            kind=self.kind,
            stem=run.name,
            tensors=to_tensors(self._by_key(model)),
            metadata=_metadata(self.config),
            keep_dtype=(".alpha",),
            architecture_suffix="/lora",
        )

    def after_step(self, model: DiffusionModel, step: int) -> None:
        """Shrink changes whose norm is above `max_norm`."""
        if self.config.max_norm is not None:
            self._norms = [layer.limit_norm(self.config.max_norm) for layer in self._layers.values()]

    def metrics(self) -> Mapping[str, float]:
        """Give mean and greatest norm of the changes and the share that was shrunk, with `max_norm`."""
        if self.config.max_norm is None or not self._norms:
            return {}
        norms = [float(norm) for norm in self._norms]
        shrunk = sum(norm > self.config.max_norm for norm in norms)
        return {
            "norm/mean": sum(norms) / len(norms),
            "norm/max": max(norms),
            "norm/shrunk": shrunk / len(norms),
        }

    def _make_layer(self, plan: LayerPlan, seed: int) -> LoraLayer:
        options = self.config
        dropouts = Dropouts(element=options.dropout, rank=options.rank_dropout, module=options.module_dropout)
        layer = LoraLayer(plan.target.module, rank=plan.rank, alpha=plan.alpha, dropouts=dropouts)
        layer.reset(derive_generator(seed, "init", plan.target.path))
        return layer

    def _by_key(self, model: DiffusionModel) -> dict[str, LoraLayer]:
        return {model.webui_key(path): layer for path, layer in self._layers.items()}

    def _groups(self, plans: Sequence[LayerPlan]) -> list[ParamGroup]:
        by_name: dict[str, list[LayerPlan]] = {}
        for plan in plans:
            by_name.setdefault(plan.group, []).append(plan)
        return [group for name, members in by_name.items() for group in self._split(name, members)]

    def _split(self, name: str, members: Sequence[LayerPlan]) -> Iterator[ParamGroup]:
        """Make one group of layers with one learning rate, or with LoRA+ two."""
        paths = [plan.target.path for plan in members]
        down = {f"{path}.lora_down": self._layers[path].lora_down for path in paths}
        up = {f"{path}.lora_up": self._layers[path].lora_up for path in paths}
        first, ratio = members[0], self.config.lora_plus_ratio
        sets = {name: (down | up, 1.0)} if ratio is None else {name: (down, 1.0), f"{name} plus": (up, ratio)}
        for group, (params, factor) in sets.items():
            yield ParamGroup(
                name=group,
                part=first.target.part,
                params=params,
                lr=first.lr,
                lr_scale=first.lr_scale * factor,
                modules=len(members),
                stop=self.config.text_encoder_stop if first.target.part == "text_encoder" else None,
            )


def _metadata(options: LoraOptions) -> dict[str, str]:
    """Write the `ss_*` entries that webui, civitai and others show: Python values as strings."""
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(options.rank),
        "ss_network_alpha": str(float(options.alpha or options.rank)),
        "ss_network_dropout": str(options.dropout or None),
        "ss_network_args": json.dumps(_network_args(options)),
        "ss_scale_weight_norms": str(options.max_norm),
    }


def _network_args(options: LoraOptions) -> dict[str, str]:
    """Name the further options as sd-scripts names its `network_args`."""
    args = {
        "conv_dim": options.conv_rank,
        "conv_alpha": options.conv_rank and float(options.conv_alpha or options.conv_rank),
        "rank_dropout": options.rank_dropout or None,
        "module_dropout": options.module_dropout or None,
        "loraplus_lr_ratio": options.lora_plus_ratio,
    }
    return {name: str(value) for name, value in args.items() if value is not None}
