"""DreamBooth as a method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.api import Artifact, BytesArtifact, FolderArtifact, Method, ParamGroup
from sdtune_dreambooth.config import DreamBoothOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sdtune.api import AnyArtifact, DiffusionModel, Part, RunInfo


class DreamBoothMethod(Method[DreamBoothOptions]):
    """Train whole parts of the model; the file is a model of its own."""

    kind = "checkpoint"

    def parts(self) -> Sequence[Part]:
        """List nothing: trained parts are loaded by `attach`, in the dtype that training needs."""
        return ()

    def attach(self, model: DiffusionModel, seed: int) -> Sequence[ParamGroup]:
        """Unfreeze the chosen parts; nothing is added, so nothing is drawn and the answer stays."""
        options = self.config
        groups = []
        if options.trains_unet:
            groups.append(_group(model, "unet", options.unet_lr))
        if options.trains_text_encoder:
            groups.append(_group(model, "text_encoder", options.text_encoder_lr, options.text_encoder_stop))
        return groups

    def export(self, model: DiffusionModel, run: RunInfo) -> Iterator[AnyArtifact]:
        """Give the model as one file with webui's names and what must lie beside it; also as a diffusers folder."""
        yield Artifact(
            kind=self.kind,
            stem=run.name,
            tensors=model.webui_state_dict(),
            metadata=model.webui_metadata(),
        )
        for suffix, content in model.webui_sidecars().items():
            yield BytesArtifact(kind=self.kind, stem=run.name, suffix=suffix, content=content)
        if self.config.diffusers:
            yield FolderArtifact(kind=self.kind, stem=f"{run.name}-diffusers", files=model.diffusers_files())


def _group(model: DiffusionModel, part: Part, lr: float | str, stop: float | str | None = None) -> ParamGroup:
    params = model.unfreeze(part)
    layers = {name.rpartition(".")[0] for name in params}
    return ParamGroup(name=part, part=part, params=params, lr=lr, modules=len(layers), stop=stop)
