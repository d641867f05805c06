"""A run, assembled: model, method, images and timetable, before the first step."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdtune.data.captions.treating import example_captions
from sdtune.errors import ConfigError, ModelError
from sdtune.models.digest import file_digest, legacy_digest
from sdtune.train.info import RunInfo
from sdtune.train.machine.clock import Clock
from sdtune.train.machine.ranks import Ranks
from sdtune.train.saving.folder import RunFolder
from sdtune.train.update.rates import used_rates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from sdtune.config.schema import CoreOptions
    from sdtune.data.caches.text import TextCache
    from sdtune.data.index.building import DataIndex
    from sdtune.data.index.missing import MissingImage
    from sdtune.data.index.split import HeldOut
    from sdtune.data.order.plan import Order
    from sdtune.data.tables.records import PlacementTable
    from sdtune.data.types import Size
    from sdtune.export.artifact import ArtifactKind
    from sdtune.models.base import DiffusionModel, Part
    from sdtune.specs import MethodSpec
    from sdtune.train.assembly.timetable import Timetable
    from sdtune.train.info import OptimizerSnapshot
    from sdtune.train.method import Method, ParamGroup
    from sdtune.train.needs.forecast import Forecast
    from sdtune.train.planning.preflight import Preflight

_LINKS = frozenset({",", "a", "an", "and", "at", "by", "in", "of", "on", "the", "with"})
_LONGEST_NAME = 255 - len("-000100-live.safetensors")  # of a file


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """A file a run has written.

    Attributes:
        path: The file, or a folder.
        kind: What it is.
        is_delivered: `sdtune export` brings it to a webui.
        suffix: What its name has after the run's, or a word's: `-000002` after an epoch, empty at the end.
    """

    path: Path
    kind: ArtifactKind
    is_delivered: bool
    suffix: str = ""


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
        order: Which images are seen how often, and with which others.
        missing: Regularization images to be drawn first; the data set holds them as if they were there.
        timetable: Steps and epochs.
        device: Where the model computes.
        ranks: This process among those of the training.
        forecast: What it will take; None: not asked for.
        preflight: Which programs will read its files; None: not asked for, or there is nothing to tell.
        fitted: A note for each option that was changed so that it fits into memory.
        texts: Captions' and preview prompts' conditioning, once cached; None while the text encoder is in use.
        held_out: Images that are measured and not trained on; None: there are none.
        clock: Set when the run was assembled.
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
    placements: PlacementTable
    order: Order
    missing: tuple[MissingImage, ...]
    timetable: Timetable
    device: torch.device
    frozen: tuple[str, ...] = ()
    ranks: Ranks = field(default_factory=Ranks)
    forecast: Forecast | None = None
    preflight: Preflight | None = None
    fitted: tuple[str, ...] = ()
    texts: TextCache | None = None
    held_out: HeldOut | None = None
    clock: Clock = field(default_factory=Clock)

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
        self.check_parameters(saved)
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                parameter.copy_(saved[name])

    def check_parameters(self, saved: Mapping[str, Tensor]) -> None:
        """Compare names and shapes of saved values with those of the trained parameters.

        Raises:
            ModelError: They differ.
        """
        own = {name: tuple(parameter.shape) for name, parameter in self.parameters().items()}
        theirs = {name: tuple(value.shape) for name, value in saved.items()}
        if strangers := sorted(name for name in {**own, **theirs} if own.get(name) != theirs.get(name)):
            first = strangers[0]
            shapes = f" ({theirs.get(first, 'none')} saved, {own.get(first, 'none')} trained)"
            raise ModelError(f"checkpoint holds other parameters, {len(strangers)} differ, first: {first}{shapes}")

    def base_digests(self) -> dict[str, str]:
        """Hash each part of the base model as it is stored."""
        parts: tuple[Part, ...] = ("unet", "text_encoder", "vae")
        return {part: self.model.part_digest(part) for part in parts}

    def bucket_counts(self) -> dict[Size, int]:
        """Count visits in an epoch by bucket, largest bucket first."""
        counts: Counter[Size] = Counter()
        for shape, count in self.order.counts.items():
            counts[shape.bucket] += count
        return dict(sorted(counts.items(), key=lambda item: (-item[0].width * item[0].height, item[0])))

    def info(self, step: int, suffix: str, *, has_hashes: bool = True) -> RunInfo:
        """Give the facts an exported file tells about the run; hashing a base model for the first time takes long."""
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
            base_digest=file_digest(source.path) if has_hashes else "",
            base_legacy_digest=legacy_digest(source.path) if has_hashes else "",
            images=self.index.instances,
            regularization=self.index.regularization,
            buckets=self.bucket_counts(),
            started_at=self.clock.started_at,
            finished_at=self.clock.now(),
            rates=used_rates(self.groups, self.options.train),
            trigger=self.trigger(),
            picture=newest_picture(self.folder.previews),
        )

    def trigger(self) -> str:
        """Give the words all captions begin with, up to the last that is no link; empty when they share none."""
        captions = (text.replace(",", " ,").split() for text in example_captions(self.index.instances))
        shared = next(captions)
        for words in captions:
            same = takewhile(lambda pair: pair[0] == pair[1], zip(shared, words, strict=False))
            if not (shared := [word for word, _ in same]):
                break
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
                    suffix=suffix,
                )
                for artifact in self.method.export(self.model, info)
            ]


def run_name(options: CoreOptions) -> str:
    """Give the name of a run: `output.name`, or the data folder's name and the method's.

    Raises:
        ConfigError: Its files would have names that are too long.
    """
    folder = options.data.path or (options.data.subsets[0].path if options.data.subsets else Path("data"))
    place = folder.resolve()
    name = options.output.name or f"{place.stem if place.is_file() else place.name}-{options.method}"
    if (size := len(os.fsencode(name))) > _LONGEST_NAME:
        raise ConfigError(
            f"the run's name is too long: {size} bytes, of {_LONGEST_NAME}", hint="give a shorter --name", where=name
        )
    return name


def run_folder(options: CoreOptions) -> RunFolder:
    """Give the folder of a run: `output.dir`, or `runs/NAME`."""
    return RunFolder(options.output.dir or Path("runs") / run_name(options))
