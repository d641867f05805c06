"""DyLoRA: one LoRA that is good at many ranks (Valipour et al. 2022)."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdtune.api import (
    Adapter,
    Artifact,
    ConfigError,
    Method,
    attach_adapters,
    derive_generator,
    derive_seed,
    match_targets,
)
from sdtune_lycoris.algorithms.base import convolve, drawn_kaiming
from sdtune_lycoris.config import DyloraOptions
from sdtune_lycoris.method import KEPT
from sdtune_lycoris.plan import make_groups, part_rate, trained_parts
from sdtune_lycoris.presets import in_preset

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sdtune.api import DiffusionModel, ParamGroup, Part, RunInfo, Target


class DyloraLayer(Adapter):
    """y = W x + b + s U_n D_n x, of the first n ranks.

    While training, each step draws a unit u of ranks k, ..., k + u - 1 and takes n = k + u: the ranks before k act and
    do not learn, those from n on are left out; s = alpha / R * sqrt(R / n). Else n = R, so the saved file, a LoRA of
    rank R and alpha, acts as trained. All batches of a step share the draw, so that accumulating is a larger batch.

    Attributes:
        rank: R.
        alpha: Strength.
        unit: u, divides R.
        frozen: k, the ranks that act and do not learn while training.
        lora_down: (R, in) or (R, in, k, k) float32.
        lora_up: (out, R) or (out, R, 1, 1) float32; zero at the start.
    """

    def __init__(self, base: nn.Module, generator: torch.Generator, *, rank: int, alpha: float, unit: int) -> None:
        super().__init__(base)
        self.rank = rank
        self.alpha = alpha
        self.unit = unit
        self.frozen = rank - unit
        weight = self.base.weight
        ones = [1] * (weight.dim() - 2)
        down = drawn_kaiming([rank, *weight.shape[1:]], generator)
        self.lora_down = nn.Parameter(down.to(weight.device))
        self.lora_up = nn.Parameter(torch.zeros(len(weight), rank, *ones, device=weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer and its change to x, (..., in) or (B, in, H, W), in the dtype of the frozen layer."""
        if not self.training:
            return self._answer(x, self.lora_down, self.lora_up)
        return self._answer(x, *self.truncated())

    def draw(self, seed: int) -> None:
        """Choose the unit that learns: any integer from 0 on, each unit equally often."""
        self.frozen = self.unit * (seed % (self.rank // self.unit))

    def truncated(self) -> tuple[Tensor, Tensor]:
        """Give the first k ranks of down and up without, and a unit more with gradients."""
        frozen, count = self.frozen, self.frozen + self.unit
        down = torch.cat([self.lora_down[:frozen].detach(), self.lora_down[frozen:count]])
        up = torch.cat([self.lora_up[:, :frozen].detach(), self.lora_up[:, frozen:count]], dim=1)
        return down, up

    def delta_weight(self) -> Tensor:
        """Compute alpha / R * up @ down, in the shape of the weight, float32."""
        product = self.lora_up.flatten(1) @ self.lora_down.flatten(1)
        return (product * (self.alpha / self.rank)).view(self.base.weight.shape)

    def tensors(self) -> dict[str, Tensor]:
        """Name the matrices as files of a LoRA do."""
        return {
            "lora_down.weight": self.lora_down.detach(),
            "lora_up.weight": self.lora_up.detach(),
            "alpha": torch.tensor(self.alpha),
        }

    def _answer(self, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        scale = self.alpha / self.rank * math.sqrt(self.rank / len(down))
        h = convolve(self.base, x, down.to(x.dtype)) * scale
        up = up.to(x.dtype)
        change = F.linear(h, up) if isinstance(self.base, nn.Linear) else F.conv2d(h, up)
        answer: Tensor = self.base(x)
        return answer + change


class DyloraMethod(Method[DyloraOptions]):
    """Train a LoRA of which any first units of ranks are a LoRA too."""

    kind = "lora"

    def __init__(self, config: DyloraOptions) -> None:
        super().__init__(config)
        self._layers: dict[str, DyloraLayer] = {}
        self._seed = 0

    def parts(self) -> Sequence[Part]:
        """List the parts that are trained."""
        return trained_parts(self.config)

    def attach(self, model: DiffusionModel, seed: int) -> Sequence[ParamGroup]:
        """Put a LoRA beside each chosen layer; the model's answer stays the same to the last bit.

        Raises:
            ConfigError: A rule names nothing, or nothing is left to train.
        """
        self._seed = seed
        targets = self._choose(model)
        self._layers = {target.path: self._make_layer(target, seed) for target in targets}
        attach_adapters(model, self._layers)
        return make_groups(
            (target.path, _factors(self._layers[target.path]), part_rate(self.config, target.part))
            for target in targets
        )

    def before_step(self, model: DiffusionModel, step: int) -> None:
        """Choose the unit of each layer that learns in this step."""
        for path, layer in self._layers.items():
            layer.draw(derive_seed(self._seed, "unit", path, step))

    def export(self, model: DiffusionModel, run: RunInfo) -> Iterator[Artifact]:
        """Give one file: a LoRA of full rank."""
        options = self.config
        yield Artifact(
            kind=self.kind,
            stem=run.name,
            tensors={
                f"{model.webui_key(path)}.{name}": tensor
                for path, layer in self._layers.items()
                for name, tensor in layer.tensors().items()
            },
            metadata={
                "ss_network_module": "networks.lora",
                "ss_network_dim": str(options.rank),
                "ss_network_alpha": str(float(options.alpha or options.rank)),
                "ss_network_dropout": "None",
                "ss_network_args": json.dumps({"algo": "dylora", "unit": str(options.unit)}),
            },
            keep_dtype=KEPT,
            architecture_suffix="/lora",
        )

    def _choose(self, model: DiffusionModel) -> list[Target]:
        matched = match_targets(model.targets(self.parts()), self.config.targets)
        targets = [target for target, rule in matched if rule is None and in_preset(self.config.preset, target)]
        if not targets:
            raise ConfigError("no layer is left to train", hint="look at dylora.preset and dylora.targets")
        return targets

    def _make_layer(self, target: Target, seed: int) -> DyloraLayer:
        options, generator = self.config, derive_generator(seed, "init", target.path)
        alpha = float(options.alpha or options.rank)
        return DyloraLayer(target.module, generator, rank=options.rank, alpha=alpha, unit=options.unit)


def _factors(layer: DyloraLayer) -> dict[str, nn.Parameter]:
    return {"lora_down": layer.lora_down, "lora_up": layer.lora_up}
