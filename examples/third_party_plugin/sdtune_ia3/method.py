"""(IA)^3 as a method of sdtune."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sdtune.api import Adapter, Artifact, ConfigError, Method, ParamGroup, attach_adapters
from sdtune_ia3.config import Ia3Options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sdtune.api import DiffusionModel, RunInfo


class Ia3Layer(Adapter):
    """A linear layer without bias, each output times 1 + w."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.w = nn.Parameter(torch.zeros(len(self.weight), device=self.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return self.base(x) * (1 + self.w).to(x.dtype)

    def delta_weight(self) -> Tensor:
        """Give w * W."""
        return self.w[:, None] * self.weight.float()


class Ia3Method(Method[Ia3Options]):
    """Train w; it starts at zero, so the model starts unchanged."""

    kind = "lora"  # webui loads it from the folder of LoRA files

    def __init__(self, config: Ia3Options) -> None:
        super().__init__(config)
        self._layers: dict[str, Ia3Layer] = {}

    def attach(self, model: DiffusionModel, seed: int) -> Sequence[ParamGroup]:
        """Wrap the layers that `layers` names."""
        self._layers = {
            target.path: Ia3Layer(target.module)
            for target in model.targets(("unet",))
            if isinstance(target.module, nn.Linear)
            and target.module.bias is None
            and re.search(self.config.layers, target.path)
        }
        if not self._layers:
            raise ConfigError(f"ia3.layers={self.config.layers!r} is found in no layer without bias")
        attach_adapters(model, self._layers)
        params = {f"{path}.w": layer.w for path, layer in self._layers.items()}
        return [ParamGroup(name="unet", part="unet", params=params, modules=len(params))]

    def export(self, model: DiffusionModel, run: RunInfo) -> Iterator[Artifact]:
        """Give one file with LyCORIS' names, which A1111 webui loads as it loads a LoRA."""
        keys = {model.webui_key(path): layer for path, layer in self._layers.items()}
        weights = {f"{key}.weight": layer.w for key, layer in keys.items()}
        sides = {f"{key}.on_input": torch.tensor(0) for key in keys}
        yield Artifact(
            kind=self.kind,
            stem=run.name,
            tensors=weights | sides,
            metadata={"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "ia3"}'},
            architecture_suffix="/lora",
        )
