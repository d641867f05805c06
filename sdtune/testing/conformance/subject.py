"""The method under test: its short runs on a tiny model, each done once and shared by the checks."""

from __future__ import annotations

import atexit
import json
import random
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sdtune.config.compose import load
from sdtune.hookspecs import hookimpl
from sdtune.models.open import open_model
from sdtune.plugins import Registry
from sdtune.testing.images import write_images
from sdtune.testing.runner import train
from sdtune.testing.tiny import tiny_sd1, tiny_sd2, tiny_sdxl
from sdtune.train.assembly.assembling import assemble
from sdtune.train.machine.device import choose_device
from sdtune.train.saving.checkpoint import Checkpoint, load_checkpoint
from sdtune.train.saving.folder import RunFolder
from sdtune.train.watching.observers import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from sdtune.models.base import DiffusionModel
    from sdtune.specs import MethodSpec
    from sdtune.train.run import Run

    Reload = Callable[[DiffusionModel, Path], None]

STEPS = 3  # enough for three factors in a row, two of which start at zero
CAPTION = "a photo of a zwx toy"
# In the UNet's middle, 1/64 as wide, attention needs two tokens to mean anything.
WIDTH_PX, HEIGHT_PX = 128, 64
CLOCKS = ("seconds", "time")
# Norms have 32 groups: of two channels, as a group of one takes every shift back and what shifts would not learn.
FAMILIES: Mapping[str, Callable[[Path], Path]] = {
    "sd1": partial(tiny_sd1, block_out_channels=(64, 64, 64, 64)),
    "sd2": tiny_sd2,
    "sdxl": partial(tiny_sdxl, depths=(0, 1, 2)),  # true depths take three times as long and show nothing else
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A method, and how it is trained here.

    Attributes:
        plugins: Plugin objects that bring it.
        name: Its name.
        family: Model family it is trained on.
        options: Options on top of the kit's own.
        tolerance: Relative error of what cannot be equal to the last bit.
        reload: Puts an exported file into a fresh base model, or None.
    """

    plugins: tuple[object, ...]
    name: str
    family: str = "sd1"
    options: tuple[str, ...] = ()
    tolerance: float = 1e-3
    reload: Reload | None = None

    @property
    def spec(self) -> MethodSpec:
        """The method's description."""
        return self.registry().method(self.name)

    def registry(self, *more: object) -> Registry:
        """Build a registry of the plugins, and of more."""
        return Registry.from_plugins([*self.plugins, *more])

    def overrides(self, folder: Path, *more: str) -> tuple[str, ...]:
        """List all options of a run in `folder`; the last one wins."""
        return (
            f"method={self.name}",
            f"model.path={model_file(self.family)}",
            f"data.path={image_folder()}",
            f"data.resolution={WIDTH_PX}x{HEIGHT_PX}",
            "data.cache.latents=ram",
            f"output.dir={folder}",
            "output.name=kit",
            f"train.steps={STEPS}",
            "train.lr=1e-2",
            "train.precision=fp32",
            "train.optimizer.weight_decay=0",  # what moves is moved by its gradient,
            "train.optimizer.eps=1e-5",  # and not by the rounding of a gradient near zero
            "save.dtype=fp32",
            "save.every_steps=1",
            f"save.keep={STEPS}",
            "log.tensorboard=false",
            *self.options,
            *more,
        )

    def assemble(self, folder: Path, *more: str) -> Run:
        """Attach the method to a fresh model, without a step."""
        registry = self.registry()
        disturb()
        return assemble(load(registry, overrides=self.overrides(folder, *more)), registry, RunFolder(folder))

    def open_base(self, folder: Path) -> DiffusionModel:
        """Open a fresh base model."""
        registry = self.registry()
        options = load(registry, overrides=self.overrides(folder)).options
        return open_model(options.model, dtype=torch.float32, device=choose_device(), registry=registry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished run.

    Attributes:
        run: The run, its model as it is after the last step.
        initial: The parameters before the first step.
        touched: Names of tensors that are not declared and yet changed.
    """

    run: Run
    initial: Mapping[str, Tensor]
    touched: Sequence[str]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """What was logged of each step, without times."""
        return read_metrics(self.run.folder)

    def checkpoint(self, step: int = STEPS) -> Checkpoint:
        """Load the checkpoint after a step."""
        return load_checkpoint(self.run.folder.checkpoints / f"step-{step:08d}")


@lru_cache(maxsize=4)  # as many as one check asks for, and the plain run, which all of them ask for
def trained(subject: Subject, *more: str) -> Trained:
    """Train with more options; a run asked for just before is not done again, so leave it as it is."""
    return train_in(subject, Path(tempfile.mkdtemp(dir=_workshop())) / "run", *more)


def train_in(subject: Subject, folder: Path, *more: str) -> Trained:
    """Train in `folder`, whatever state the process's random generators are in."""
    disturb()
    watch = _Watch()
    run = train([*subject.plugins, _Plugin(watch)], *subject.overrides(folder, *more))
    return Trained(run=run, initial=watch.initial, touched=watch.touched)


def disturb() -> None:
    """Leave the process's random generators in states of no meaning: a method must not depend on them."""
    torch.seed()
    random.seed()
    np.random.seed()


def read_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """Read what was logged of each step, without times."""
    lines = map(json.loads, folder.metrics.read_text(encoding="utf-8").splitlines())
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


@torch.no_grad()
def predict(model: DiffusionModel) -> Tensor:
    """Give the answer (2, 4, 8, 16) for fixed latents, timesteps and captions."""
    return answer(model)


def answer(model: DiffusionModel) -> Tensor:
    """Give the same with its gradient."""
    model.load("unet")
    model.load("text_encoder")
    model.eval()
    shape = (2, model.latent_channels, HEIGHT_PX // model.latent_factor, WIDTH_PX // model.latent_factor)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    timesteps = torch.tensor([10, 900]).to(model.source.device)
    cond = model.encode_prompt([CAPTION, "a red circle"])
    return model.denoise(latents.to(model.source.device), timesteps, cond)


@cache
def model_file(family: str) -> Path:
    """Write the tiny model of a family once."""
    return FAMILIES[family](_workshop() / family / "tiny.safetensors")


@cache
def image_folder() -> Path:
    """Draw the data set once: two pictures, so that two steps, or one step of two, are an epoch."""
    return write_images(_workshop() / "images", 2, sizes=[(WIDTH_PX, HEIGHT_PX)], caption=CAPTION)[0].parent


@cache
def _workshop() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sdtune-conformance-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@dataclass(slots=True)
class _Watch(Observer):
    """Remembers parameters before training, and compares everything else before and after."""

    initial: dict[str, Tensor] = field(default_factory=dict)
    touched: list[str] = field(default_factory=list)
    _rest: dict[str, Tensor] = field(default_factory=dict)

    def on_start(self, run: Run, step: int) -> None:
        self.initial = _copies(run.parameters().items())
        self._rest = _copies(_undeclared(run))

    def on_end(self, run: Run, step: int) -> None:
        after = dict(_undeclared(run))
        names = self._rest.keys() & after.keys()
        self.touched = sorted(name for name in names if not torch.equal(self._rest[name], after[name]))


class _Plugin:
    __name__ = "conformance"

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch

    @hookimpl
    def sdtune_observers(self, run: Run) -> list[Observer]:
        return [self._watch]


def _copies(tensors: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors}


def _undeclared(run: Run) -> Iterator[tuple[str, Tensor | nn.Parameter]]:
    declared = {id(parameter) for parameter in run.parameters().values()}
    for name, tensor in (*run.model.named_parameters(), *run.model.named_buffers()):
        if id(tensor) not in declared:
            yield name, tensor
