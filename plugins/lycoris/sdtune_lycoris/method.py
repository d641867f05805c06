"""LyCORIS as a method."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sdtune.api import Artifact, Method, attach_adapters, derive_generator
from sdtune_lycoris.config import USES, LycorisOptions
from sdtune_lycoris.layers import LycorisLayer, NormLayer
from sdtune_lycoris.plan import LayerPlan, make_groups, part_rate, plan_layers, trained_parts
from sdtune_lycoris.presets import unet_norms

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sdtune.api import DiffusionModel, ParamGroup, Part, RunInfo

# Magnitudes and gains act on the whole weight: rounded, they would be felt beside a change that is small against it.
KEPT = (".alpha", ".dora_scale", ".rescale")


class LycorisMethod(Method[LycorisOptions]):
    """Train the factors of an algorithm beside each chosen layer."""

    kind = "lora"

    def __init__(self, config: LycorisOptions) -> None:
        super().__init__(config)
        self._layers: dict[str, LycorisLayer] = {}
        self._norms: dict[str, NormLayer] = {}

    def parts(self) -> Sequence[Part]:
        """List the parts that are trained."""
        return trained_parts(self.config)

    def attach(self, model: DiffusionModel, seed: int) -> Sequence[ParamGroup]:
        """Put factors beside each planned layer; the model's answer stays the same.

        Raises:
            ConfigError: Rules name nothing, options have no effect, or nothing is left to train.
        """
        plans = plan_layers(self.config, model.targets(self.parts()))
        self._layers = {plan.target.path: self._make_layer(plan, seed) for plan in plans}
        if self.config.norms:
            norms = unet_norms(model.part("unet").named_modules())
            self._norms = {path: NormLayer(norm) for path, norm in norms.items()}
        attach_adapters(model, self._layers)
        for path, norm in self._norms.items():
            model.replace(path, norm)
        rate = part_rate(self.config, "unet")
        return make_groups(
            [
                *((plan.target.path, self._layers[plan.target.path].factors, plan.rate) for plan in plans),
                *((path, norm.factors, rate) for path, norm in self._norms.items()),
            ]
        )

    def export(self, model: DiffusionModel, run: RunInfo) -> Iterator[Artifact]:
        """Give one file with kohya-style names."""
        tensors = {
            f"{model.webui_key(path)}.{name}": tensor.detach()
            for path, layer in self._layers.items()
            for name, tensor in layer.tensors(as_diff=self._is_diff(layer)).items()
        }
        tensors |= {
            f"{model.webui_key(path)}.{name}": tensor
            for path, norm in self._norms.items()
            for name, tensor in norm.tensors().items()
        }
        yield Artifact(
            kind=self.kind,
            stem=run.name,
            tensors=tensors,
            metadata=_metadata(self.config),
            keep_dtype=KEPT,
            architecture_suffix="/lora",
        )

    def _make_layer(self, plan: LayerPlan, seed: int) -> LycorisLayer:
        return LycorisLayer(
            plan.target.module,
            plan.settings,
            derive_generator(seed, "init", plan.target.path),
            rank_dropout=self.config.rank_dropout,
            module_dropout=self.config.module_dropout,
        )

    def _is_diff(self, layer: LycorisLayer) -> bool:
        """Tell whether a layer is saved as the whole difference."""
        settings, wanted = layer.settings, self.config.save_as
        if wanted != "auto":
            return wanted == "diff"
        return settings.algo == "ia3" or (settings.algo == "diag-oft" and settings.rescaled)


def _metadata(options: LycorisOptions) -> dict[str, str]:
    ranked = "rank" in USES[options.algo]
    return {
        "ss_network_module": "lycoris.kohya",
        "ss_network_dim": str(options.rank) if ranked else "None",
        "ss_network_alpha": str(float(options.alpha or options.rank)) if ranked else "None",
        "ss_network_dropout": "None",
        "ss_network_args": json.dumps(_network_args(options)),
    }


def _network_args(options: LycorisOptions) -> dict[str, str]:
    """Name the further options as LyCORIS names its `network_args`."""
    args = {
        "preset": options.preset,
        "conv_dim": options.conv_rank,
        "conv_alpha": options.conv_rank and float(options.conv_alpha or options.conv_rank),
        "use_tucker": options.tucker or None,
        "use_scalar": options.scalar or None,
        "rs_lora": options.rs_lora or None,
        "dora_wd": options.weight_decompose or None,
        "wd_on_output": False if options.weight_decompose else None,
        "factor": options.factor,
        "full_matrix": options.full_matrix or None,
        "decompose_both": options.decompose_both or None,
        "train_on_input": options.on_input or None,
        "constraint": options.constraint,
        "rescaled": options.rescaled or None,
        "train_norm": options.norms or None,
        "rank_dropout": options.rank_dropout or None,
        "module_dropout": options.module_dropout or None,
    }
    return {"algo": options.algo} | {name: str(value) for name, value in args.items() if value is not None}
