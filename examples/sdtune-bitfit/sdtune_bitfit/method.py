"""ComfyUI and Forge load the files; A1111's webui reads a layer's `diff_b` only where there is a `diff` too."""

import re

import torch

from sdtune.api import Adapter, Artifact, ConfigError, Method, ParamGroup, attach_adapters


class Shifted(Adapter):
    def __init__(self, base):
        super().__init__(base)
        self.shift = torch.nn.Parameter(torch.zeros_like(self.bias, dtype=torch.float32))

    def forward(self, x):
        return self.base(x) + self.shift.to(x.dtype)

    def delta_weight(self):
        return torch.zeros_like(self.weight, dtype=torch.float32)

    def delta_bias(self):
        return self.shift


class BitFit(Method):
    kind = "lora"  # the folder of a webui

    def parts(self):
        return "unet", "text_encoder"

    def attach(self, model, seed):
        targets = [t for t in model.targets(self.parts()) if re.search(self.config.layers, t.path) and not t.is_idle]
        self.layers = {t.path: Shifted(t.module) for t in targets if t.module.bias is not None}
        if not self.layers:
            raise ConfigError(f"bitfit.layers={self.config.layers!r} finds no layer with a bias")
        attach_adapters(model, self.layers)
        return [group for part in self.parts() if (group := self._group(part)).params]

    def _group(self, part):
        params = {path: layer.shift for path, layer in self.layers.items() if path.startswith(part)}
        return ParamGroup(name=part, part=part, params=params, modules=len(params))

    def export(self, model, run):
        tensors = {f"{model.webui_key(path)}.diff_b": layer.shift for path, layer in self.layers.items()}
        yield Artifact(kind="lora", stem=run.name, tensors=tensors, metadata={}, architecture_suffix="/lora")
