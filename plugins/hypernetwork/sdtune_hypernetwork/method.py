"""Hypernetworks as a method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from sdtune.api import ConfigError, Method, ModelError, ParamGroup, Wrapper
from sdtune_hypernetwork.config import HypernetworkOptions
from sdtune_hypernetwork.files import (
    Facts,
    make_artifact,
    make_sidecar,
    read_hypernetwork,
    strip_dropout,
)
from sdtune_hypernetwork.layers import Change, ContextLayer
from sdtune_hypernetwork.network import Form, Hypernetwork

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from sdtune.api import DiffusionModel, PickledArtifact, RunInfo, Target
    from sdtune_hypernetwork.config import ChainOptions

GROUP = "hypernetwork"
_SIDES = {".to_k": "k", ".to_v": "v"}


class HypernetworkMethod(Method[HypernetworkOptions]):
    """Train networks that change the contexts of keys and values."""

    kind = "hypernetwork"

    def __init__(self, config: HypernetworkOptions) -> None:
        super().__init__(config)
        self._trained = Hypernetwork((), Form())
        self._facts = Facts(name="", init=config.init)

    def attach(self, model: DiffusionModel, seed: int) -> Sequence[ParamGroup]:
        """Put networks before `to_k` and `to_v`; the model's answer changes a little, as they do not begin at zero.

        Raises:
            ConfigError: The model has no context of a width that is asked for, or there is no such file.
            ModelError: A file is no hypernetwork, or fits no context of the model.
        """
        sites = [target for target in model.targets(("unet",)) if target.path.endswith(tuple(_SIDES))]
        widths = sorted({_width(target) for target in sites})
        device = _weight(sites[0]).device
        self._trained, self._facts = self._begin(widths, seed)
        self._trained.to(device)
        chain = [(strip_dropout(_read_fitting(link.file, widths)[0]).to(device), link) for link in self.config.chain]
        layers = {target.path: self._wrap(target, chain) for target in sites}
        for path, layer in layers.items():
            model.replace(path, layer)
        params = {f"hypernetwork.{name}": parameter for name, parameter in self._trained.learned()}
        count = sum(layer.trained is not None for layer in layers.values())
        return [ParamGroup(name=GROUP, part="unet", params=params, lr=self.config.lr, modules=count)]

    def export(self, model: DiffusionModel, run: RunInfo) -> Iterator[PickledArtifact]:
        """Give webui's file; hypernetworks before the trained one are not in it."""
        facts = Facts(
            name=run.name,
            step=self._facts.step + run.step,
            init=self._facts.init,
            base_name=run.base_name,
            base_hash=run.base_digest,
            info=run.config.output.comment,
        )
        artifact = make_artifact(self._trained, facts, stem=run.name, keep_dropout=self.config.export_dropout)
        yield artifact
        if self.config.save_optimizer and run.optimizer is not None:
            yield make_sidecar(artifact, run.optimizer.name, run.optimizer.of([GROUP]))

    def is_whole_in_files(self) -> bool:
        """Tell whether it is trained alone, at full strength: a file holds neither a chain nor a strength."""
        return not self.config.chain and self.config.strength == 1

    def _wrap(self, target: Target, chain: Sequence[tuple[Hypernetwork, ChainOptions]]) -> ContextLayer:
        size, side = _width(target), _SIDES[target.path[-len(".to_k") :]]
        changes = [Change(network.network(size, side), link.strength) for network, link in chain if size in network]
        trained = self._trained.network(size, side) if size in self._trained else None
        if trained is not None:
            changes.append(Change(trained, self.config.strength))
        return ContextLayer(target.module, changes, trained)

    def _begin(self, widths: Sequence[int], seed: int) -> tuple[Hypernetwork, Facts]:
        """Read or draw the networks that learn."""
        if self.config.from_file is None:
            hypernetwork, facts = self._draw(widths, seed), self._facts
        else:
            hypernetwork, facts = _read_fitting(self.config.from_file, widths)
        hypernetwork.requires_grad_(False)
        for _, parameter in hypernetwork.learned():
            parameter.requires_grad_(True)
        return hypernetwork, facts

    def _draw(self, widths: Sequence[int], seed: int) -> Hypernetwork:
        sizes = self.config.sizes or widths
        if unknown := [size for size in sizes if size not in widths]:
            raise ConfigError(
                f"hypernetwork.sizes: the model has no context of width {', '.join(map(str, unknown))}",
                hint=f"it has {', '.join(map(str, widths))}",
            )
        hypernetwork = Hypernetwork(sizes, Form.from_options(self.config))
        hypernetwork.reset(self.config.init, seed)
        return hypernetwork


def _width(target: Target) -> int:
    """Give the width of the context of `to_k` or `to_v`."""
    return _weight(target).shape[1]


def _weight(target: Target) -> Tensor:
    assert isinstance(target.module, nn.Linear | Wrapper)
    return target.module.weight


def _read_fitting(path: Path, widths: Sequence[int]) -> tuple[Hypernetwork, Facts]:
    """Read a hypernetwork, without networks for contexts that the model does not have."""
    hypernetwork, facts = read_hypernetwork(path)
    found = hypernetwork.sizes
    hypernetwork.keep(widths)
    if not hypernetwork.sizes:
        raise ModelError(
            f"acts on contexts of width {', '.join(map(str, found))}, the model has {', '.join(map(str, widths))}",
            where=str(path),
            hint="it is of another model family",
        )
    return hypernetwork, facts
