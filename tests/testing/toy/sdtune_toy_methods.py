"""A small LoRA on four layers, and what can be wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import save
from torch import nn

from sdtune.api import Adapter, Artifact, Method, ParamGroup, attach_adapters, derive_generator
from sdtune.export.artifact import BytesArtifact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from sdtune.api import DiffusionModel, RunInfo, StepOutput


class ToyLayer(Adapter):
    def __init__(self, base: nn.Module, rank: int) -> None:
        super().__init__(base)
        self.down = nn.Parameter(torch.zeros(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.alpha = rank / 2

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + nn.functional.linear(x, self.delta_weight().to(x.dtype))

    def delta_weight(self) -> Tensor:
        return self.alpha / len(self.down) * self.up @ self.down


class Toy(Method):
    kind = "lora"
    layer = ToyLayer

    def attach(self, model: DiffusionModel, seed: int) -> list[ParamGroup]:
        targets = [target for target in model.targets(("unet",)) if target.path.endswith("attn1.to_v")][:4]
        self.layers = {target.path: self.layer(target.module, self.config.rank) for target in targets}
        for path, layer in self.layers.items():
            nn.init.normal_(layer.down, std=0.2, generator=self.generator(seed, path))
        attach_adapters(model, self.layers)
        return [self.group("down"), self.group("up")]

    def group(self, side: str) -> ParamGroup:
        params = {f"{path}.{side}": getattr(layer, side) for path, layer in self.layers.items()}
        return ParamGroup(name=side, part="unet", params=params)

    def generator(self, seed: int, path: str) -> torch.Generator | None:
        return derive_generator(seed, "init", path)

    def tensors(self, model: DiffusionModel) -> Iterator[tuple[str, Tensor]]:
        for path, layer in self.layers.items():
            key = model.webui_key(path)
            yield f"{key}.lora_down.weight", layer.down
            yield f"{key}.lora_up.weight", layer.up
            yield f"{key}.alpha", torch.tensor(layer.alpha)

    def export(self, model: DiffusionModel, run: RunInfo) -> Iterator[Artifact | BytesArtifact]:
        tensors = dict(self.tensors(model))
        yield Artifact(kind="lora", stem=run.name, tensors=tensors, metadata={}, architecture_suffix="/lora")


class LeftOut(Toy):
    def attach(self, model: DiffusionModel, seed: int) -> list[ParamGroup]:
        return super().attach(model, seed)[:1]


class NoAlpha(Toy):
    def tensors(self, model: DiffusionModel) -> Iterator[tuple[str, Tensor]]:
        return ((name, tensor) for name, tensor in super().tensors(model) if not name.endswith("alpha"))


class Transposed(Toy):
    def tensors(self, model: DiffusionModel) -> Iterator[tuple[str, Tensor]]:
        for path, layer in self.layers.items():
            key = model.webui_key(path)
            yield f"{key}.lora_down.weight", layer.up.T
            yield f"{key}.lora_up.weight", layer.down.T
            yield f"{key}.alpha", torch.tensor(layer.alpha)


class Touching(Toy):
    def after_step(self, model: DiffusionModel, step: int) -> None:
        next(iter(self.layers.values())).base.weight[0, 0] += 1e-6


class Unseeded(Toy):
    def generator(self, seed: int, path: str) -> torch.Generator | None:
        return None


class Unreached(Toy):
    def attach(self, model: DiffusionModel, seed: int) -> list[ParamGroup]:
        idle = {"idle": nn.Parameter(torch.ones(1))}
        return [*super().attach(model, seed), ParamGroup(name="idle", part="unet", params=idle)]


class Stuck(Toy):
    def attach(self, model: DiffusionModel, seed: int) -> list[ParamGroup]:
        down, up = super().attach(model, seed)
        return [ParamGroup(name="down", part="unet", params=down.params, lr=1e-30), up]


class Forgetful(Toy):
    def loss_terms(self, out: StepOutput) -> Mapping[str, Tensor]:
        self.steps = getattr(self, "steps", 0) + 1
        return {"diffusion": out.loss * self.steps}


class Batchwise(Toy):
    def loss_terms(self, out: StepOutput) -> Mapping[str, Tensor]:
        return {"diffusion": out.loss / len(out.loss)}


class ImpureLayer(ToyLayer):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.base(x) + nn.functional.linear(x, self.delta_weight() * self.calls)


class Impure(Toy):
    layer = ImpureLayer


class ShiftedLayer(ToyLayer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1e-5


class Shifted(Toy):
    layer = ShiftedLayer


class Bf16LoverLayer(ToyLayer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (3 if x.dtype == torch.bfloat16 else 1)


class Bf16Lover(Toy):
    layer = Bf16LoverLayer


class Stale(Toy):
    def after_step(self, model: DiffusionModel, step: int) -> None:
        self.kept = {name: tensor.detach().clone() for name, tensor in super().tensors(model)}

    def tensors(self, model: DiffusionModel) -> Iterator[tuple[str, Tensor]]:
        kept = getattr(self, "kept", None)
        return super().tensors(model) if kept is None else iter(kept.items())


class Moody(Toy):
    def tensors(self, model: DiffusionModel) -> Iterator[tuple[str, Tensor]]:
        return ((name, tensor + 1e-6 * torch.rand(())) for name, tensor in super().tensors(model))


class Misnamed(Toy):
    def tensors(self, model: DiffusionModel) -> Iterator[tuple[str, Tensor]]:
        return ((name.replace("attn1", "attention1"), tensor) for name, tensor in super().tensors(model))


class Silent(Toy):
    def export(self, model: DiffusionModel, run: RunInfo) -> Iterator[Artifact | BytesArtifact]:
        content = save({name: tensor.detach().contiguous() for name, tensor in self.tensors(model)})
        yield BytesArtifact(kind="lora", stem=run.name, suffix=".safetensors", content=content)
