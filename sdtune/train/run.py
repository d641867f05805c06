"""A run, assembled: model, method, images and timetable, before the first step."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdtune.config.compose import method_options
from sdtune.data.buckets import place_images
from sdtune.data.index import build_index
from sdtune.data.missing import find_missing, with_planned
from sdtune.data.plan import batches_per_epoch, count_visits
from sdtune.data.regularization import find_sources
from sdtune.data.rotation import plan_rotations
from sdtune.errors import ConfigError, ModelError
from sdtune.models.digest import file_digest, legacy_digest
from sdtune.models.open import open_model
from sdtune.train.device import DTYPES, choose_device, compute_dtype
from sdtune.train.drawing import drawing_folder
from sdtune.train.folder import RunFolder
from sdtune.train.fused import check_fused
from sdtune.train.groups import freeze_groups, split_groups
from sdtune.train.info import RunInfo
from sdtune.train.objective import check_objective
from sdtune.train.optim import group_rates
from sdtune.train.optimizers import check_fit, choose_optimizer
from sdtune.train.stepping import narrow
from sdtune.train.timetable import Timetable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from sdtune.config.compose import Loaded
    from sdtune.config.schema import CoreOptions
    from sdtune.data.index import DataIndex
    from sdtune.data.missing import MissingImage
    from sdtune.data.rotation import Rotation
    from sdtune.data.text_cache import TextCache
    from sdtune.data.types import Placement, Size
    from sdtune.export.artifact import ArtifactKind
    from sdtune.models.base import DiffusionModel
    from sdtune.plugins import Registry
    from sdtune.specs import MethodSpec
    from sdtune.train.checkpoint import Position
    from sdtune.train.info import OptimizerSnapshot
    from sdtune.train.method import Method, ParamGroup

logger = logging.getLogger(__name__)
_LINKS = frozenset({",", "a", "an", "and", "at", "by", "in", "of", "on", "the", "with"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """A file a run has written.

    Attributes:
        path: The file, or a folder.
        kind: What it is.
        is_delivered: `sdtune export` brings it to a webui.
    """

    path: Path
    kind: ArtifactKind
    is_delivered: bool


@dataclass(slots=True, kw_only=True)
class Run:
    """Everything a run is made of; observers may read all of it.

    Attributes:
        options: All options, with the method's own section.
        origins: Where each option's value came from.
        spec: The method's description.
        folder: The run folder.
        name: Name of the run and stem of its file.
        model: The base model, with the method attached.
        method: The method.
        groups: Trained parameters by learning rate.
        frozen: A note for each group that a learning rate of 0 keeps out of training.
        index: The data set.
        placements: How each image comes to its bucket.
        rotations: How regularization images take turns.
        missing: Regularization images to be drawn first; the data set holds them as if they were there.
        timetable: Steps and epochs.
        device: Where the model computes.
        texts: Captions' and preview prompts' conditioning, once cached; None while the text encoder is in use.
        started_at: Unix seconds.
    """

    options: CoreOptions
    origins: Mapping[str, str]
    spec: MethodSpec
    folder: RunFolder
    name: str
    model: DiffusionModel
    method: Method[Any]
    groups: tuple[ParamGroup, ...]
    index: DataIndex
    placements: tuple[Placement, ...]
    rotations: tuple[Rotation, ...]
    missing: tuple[MissingImage, ...]
    timetable: Timetable
    device: torch.device
    frozen: tuple[str, ...] = ()
    texts: TextCache | None = None
    started_at: float = field(default_factory=time.time)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Name to trained parameter, over all groups, in order."""
        return {name: parameter for group in self.groups for name, parameter in group.params.items()}

    @property
    def trains_text(self) -> bool:
        """Whether the text encoder's output changes while training."""
        return any(group.part == "text_encoder" for group in self.groups)

    def load_parameters(self, saved: Mapping[str, Tensor]) -> None:
        """Copy saved values into the trained parameters.

        Raises:
            ModelError: Names or shapes differ.
        """
        own = self.parameters()
        if set(own) != set(saved):
            strangers = sorted(set(own) ^ set(saved))
            raise ModelError(f"checkpoint holds other parameters, {len(strangers)} differ, first: {strangers[0]}")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(saved[name])

    def check_unchanged(self, position: Position) -> None:
        """Compare data set and model with those of a checkpoint.

        Raises:
            ConfigError: One of them changed, so going on would not be the same run.
        """
        if position.dataset != self.index.digest:
            raise ConfigError(
                "images or captions changed since the checkpoint",
                where=str(self.folder.path),
                hint="restore them, or start a new run in another --output",
            )
        if position.model != self.model.part_digest("unet"):
            raise ConfigError(
                f"the base model '{self.options.model.path}' changed since the checkpoint",
                where=str(self.folder.path),
                hint="restore it, or start a new run in another --output",
            )

    def bucket_counts(self) -> dict[Size, int]:
        """Count visits in an epoch by bucket, largest bucket first."""
        counts = count_visits(self.index.images, self.placements, self.rotations)
        return dict(sorted(counts.items(), key=lambda item: (-item[0].width * item[0].height, item[0])))

    def info(self, step: int, suffix: str) -> RunInfo:
        """Give the facts an exported file tells about the run."""
        from sdtune.export.sidecar import newest_picture

        source = self.model.source
        return RunInfo(
            name=self.name + suffix,
            suffix=suffix,
            step=step,
            epoch=max(1, -(-step // self.timetable.steps_per_epoch)),
            total_steps=self.timetable.steps,
            total_epochs=self.timetable.epochs,
            batches_per_epoch=self.timetable.batches_per_epoch,
            config=self.options,
            family=self.model.family,
            prediction=self.model.prediction,
            clip_skip=self.model.clip_skip,
            zero_terminal_snr=self.model.schedule.has_zero_snr,
            base_name=source.name,
            base_digest=file_digest(source.path),
            base_legacy_digest=legacy_digest(source.path),
            images=self.index.instances,
            regularization=self.index.regularization,
            buckets=self.bucket_counts(),
            started_at=self.started_at,
            finished_at=time.time(),
            trigger=self.trigger(),
            picture=newest_picture(self.folder.previews),
        )

    def trigger(self) -> str:
        """Give the words all captions begin with, up to the last that is no link; empty when they share none."""
        captions = [image.caption.replace(",", " ,").split() for image in self.index.instances]
        shared: list[str] = []
        for words in zip(*captions, strict=False):
            if len(set(words)) > 1:
                break
            shared.append(words[0])
        while shared and shared[-1] in _LINKS:
            shared.pop()
        return " ".join(shared).replace(" ,", ",")

    def export(self, step: int, suffix: str = "", optimizer: OptimizerSnapshot | None = None) -> list[ExportedFile]:
        """Write the method's files from the parameters as they are now.

        Args:
            step: Optimizer steps done.
            suffix: Added to the run's name, e.g. `-000002` after an epoch.
            optimizer: For files that hold its state.
        """
        from sdtune.export.writer import write_artifact

        info = replace(self.info(step, suffix), optimizer=optimizer)
        dtype, folder = self.options.save.dtype, self.folder.exports
        with self.model.stored_weights():
            return [
                ExportedFile(
                    path=write_artifact(artifact, info, folder, dtype=dtype, overwrite=True),
                    kind=artifact.kind,
                    is_delivered=artifact.is_delivered,
                )
                for artifact in self.method.export(self.model, info)
            ]


def run_name(options: CoreOptions) -> str:
    """Give the name of a run: `output.name`, or the data folder's name and the method's."""
    if options.output.name:
        return options.output.name
    folder = options.data.path or (options.data.subsets[0].path if options.data.subsets else Path("data"))
    return f"{folder.resolve().name}-{options.method}"


def run_folder(options: CoreOptions) -> RunFolder:
    """Give the folder of a run: `output.dir`, or `runs/NAME`."""
    return RunFolder(options.output.dir or Path("runs") / run_name(options))


def assemble(loaded: Loaded, registry: Registry, folder: RunFolder) -> Run:
    """Read images, open the model, attach the method; nothing is written.

    Raises:
        ConfigError: No length was given, or options do not fit together.
        DataError: Images or captions cannot be used.
        ModelError: The model cannot be loaded, or the method does not work on its family.
    """
    options, spec = loaded.options, loaded.spec
    optimizer = choose_optimizer(options.train.optimizer)
    model = open_base(options, registry)
    check_family(spec, model.family)
    check_objective(options, model)
    options = with_native_resolution(options, model)
    index, placements, missing = read_data(options, model)
    rotations = plan_rotations(index.images, placements, options.regularization.ratio)
    method = load_method(spec, options)
    method.check(index.instances)
    for part in method.parts():
        model.load(part)
    groups, frozen = freeze_groups(
        split_groups(method.attach(model, options.train.seed), options.train.rates), options.train
    )
    timetable = plan_timetable(
        options, batches_per_epoch(index.images, placements, options.train.batch_size, rotations), groups
    )
    check_fit(optimizer, groups, options.train, timetable.steps)
    if options.train.fused_backward:
        check_fused(options.train, optimizer.entry)
    if options.train.weights == "bf16":
        narrow(groups)
    if options.train.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return Run(
        options=options,
        origins=loaded.origins,
        spec=spec,
        folder=folder,
        name=run_name(options),
        model=model,
        method=method,
        groups=tuple(groups),
        frozen=tuple(frozen),
        index=index,
        placements=placements,
        rotations=rotations,
        missing=missing,
        timetable=timetable,
        device=model.source.device,
    )


def read_data(
    options: CoreOptions, model: DiffusionModel
) -> tuple[DataIndex, tuple[Placement, ...], tuple[MissingImage, ...]]:
    """Read the images and place them; regularization images that will be drawn are counted as if they were there."""
    sources = find_sources(
        options.regularization,
        options.data.subsets,
        lambda prompt: drawing_folder(model, prompt, options.data.resolution),
    )
    index = build_index(options.data, sources)
    placements = place_images(index.images, options.data)
    missing: list[MissingImage] = []
    for source in sources:
        if found := find_missing(source, index, placements):
            index, placements = with_planned(index, placements, source, found)
            missing += found
    return index, placements, tuple(missing)


def open_base(options: CoreOptions, registry: Registry) -> DiffusionModel:
    """Open the base model of a run on its device."""
    device = choose_device()
    return open_model(
        options.model,
        dtype=compute_dtype(options, device),
        device=device,
        registry=registry,
        trained_dtype=DTYPES[options.train.weights],
    )


def unpacked(options: CoreOptions) -> CoreOptions:
    """Give the options of the same run with a base model whose weights are all as stored."""
    return options.model_copy(update={"model": options.model.model_copy(update={"quantize": None})})


def plan_timetable(options: CoreOptions, batches: int, groups: Sequence[ParamGroup]) -> Timetable:
    """Plan steps and epochs: as long as asked for, and never longer than some learning rate lasts.

    Raises:
        ConfigError: Nothing says how long.
    """
    train = options.train
    rates_end = max(group_rates(group, train).end for group in groups)
    if train.steps is None and train.epochs is None and rates_end == math.inf:
        raise ConfigError("no length given", hint="say how long: --steps 800, or --epochs 10")
    steps = [step for step in (train.steps, rates_end) if step is not None and step != math.inf]
    return Timetable.plan(
        batches_per_epoch=batches,
        accumulation=train.gradient_accumulation,
        steps=int(min(steps)) if steps else None,
        epochs=train.epochs,
    )


def with_native_resolution(options: CoreOptions, model: DiffusionModel) -> CoreOptions:
    """Fill in the model's own resolution where none was given."""
    if options.data.resolution is not None:
        return options
    data = options.data.model_copy(update={"resolution": str(model.native_px)})
    return options.model_copy(update={"data": data})


def check_family(spec: MethodSpec, family: str) -> None:
    """Refuse a family the method does not know.

    Raises:
        ModelError: It does not.
    """
    if spec.families is not None and family not in spec.families:
        raise ModelError(f"method '{spec.name}' does not work on {family}", hint=f"it works on {sorted(spec.families)}")


def load_method(spec: MethodSpec, options: CoreOptions) -> Method[Any]:
    """Import the method's class and build it from its section of the options; of several, combine them.

    Raises:
        ConfigError: The class does not say what it exports.
    """
    from sdtune.train.combine import CombinedMethod

    members = {part.name: _load_one(part, options) for part in spec.sections}
    return CombinedMethod(members) if spec.parts else members[spec.name]


def _load_one(spec: MethodSpec, options: CoreOptions) -> Method[Any]:
    from importlib import import_module

    module, _, name = spec.factory.partition(":")
    factory = getattr(import_module(module), name)
    if getattr(factory, "kind", None) is None:
        raise ConfigError(
            f"method '{spec.name}' does not say what it exports", hint=f"give {name} a class attribute kind"
        )
    method: Method[Any] = factory(method_options(options, spec))
    return method
