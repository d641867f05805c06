"""From options to a run: images read, the model open, the method attached, before the first step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdtune.config.compose import method_options
from sdtune.data.buckets.placing import place_images
from sdtune.data.captions.treating import with_examples
from sdtune.data.digests import bytes_digest
from sdtune.data.index.building import build_index
from sdtune.data.index.missing import find_missing, with_planned
from sdtune.data.index.regularization import find_sources
from sdtune.data.index.split import hold_out
from sdtune.data.order.plan import arrange
from sdtune.data.pictures.pixels import check_cacheable
from sdtune.data.sources.kohya_options import expand_dataset_file
from sdtune.data.tables.records import PlacementTable
from sdtune.errors import ConfigError, ModelError
from sdtune.models.open import open_model
from sdtune.train.assembly.drawing import drawing_folder
from sdtune.train.assembly.timetable import Timetable
from sdtune.train.machine.device import DTYPES, choose_device, compute_dtype
from sdtune.train.machine.ranks import Ranks
from sdtune.train.run import Run, run_name
from sdtune.train.step.objective import check_objective
from sdtune.train.update.fused import check_fused
from sdtune.train.update.groups import freeze_groups, split_groups
from sdtune.train.update.optimizers import check_fit, choose_optimizer
from sdtune.train.update.rates import group_rates
from sdtune.train.update.stepping import narrow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdtune.config.compose import Loaded
    from sdtune.config.schema import CoreOptions
    from sdtune.data.index.building import DataIndex
    from sdtune.data.index.missing import MissingImage
    from sdtune.data.index.split import HeldOut
    from sdtune.models.base import DiffusionModel
    from sdtune.plugins import Registry
    from sdtune.specs import MethodSpec
    from sdtune.train.method import Method, ParamGroup
    from sdtune.train.saving.folder import RunFolder


def assemble(loaded: Loaded, registry: Registry, folder: RunFolder, ranks: Ranks | None = None) -> Run:
    """Read images, open the model, attach the method; nothing is written.

    Raises:
        ConfigError: No length was given, or options do not fit together.
        DataError: Images or captions cannot be used.
        ModelError: The model cannot be loaded, or the method does not work on its family.
    """
    options, spec = loaded.options, loaded.spec
    check_cacheable(options.data)
    optimizer = choose_optimizer(options.train.optimizer)
    model = open_base(options, registry)
    check_family(spec, model.family)
    check_objective(options, model)
    options, told = expand_dataset_file(options)
    options = with_native_resolution(options, model)
    index, placements, missing, held_out = read_data(options, model)
    if options.data.path != loaded.options.data.path:
        index = _with_dataset_file(index, options, told)
    order = arrange(index.images, placements, options.train.batch_size, options.regularization.ratio)
    method = load_method(spec, options)
    method.check(with_examples(index.instances))
    for part in method.parts():
        model.load(part)
    groups, frozen = freeze_groups(
        split_groups(method.attach(model, options.train.seed), options.train.rates), options.train
    )
    timetable = plan_timetable(options, order.batches, groups)
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
        name=run_name(loaded.options),
        model=model,
        method=method,
        groups=tuple(groups),
        frozen=tuple(frozen),
        index=index,
        placements=placements,
        order=order,
        missing=missing,
        held_out=held_out,
        timetable=timetable,
        device=model.source.device,
        ranks=ranks or Ranks(),
    )


def _with_dataset_file(index: DataIndex, options: CoreOptions, notes: Sequence[str]) -> DataIndex:
    """Let what a dataset file says be part of the data set, so that a run that goes on sees when it was edited."""
    said = "".join(subset.model_dump_json() for subset in options.data.subsets)
    digest = bytes_digest(f"{index.digest} {said}".encode())
    return replace(index, notes=(*notes, *index.notes), digest=digest)


def read_data(
    options: CoreOptions, model: DiffusionModel
) -> tuple[DataIndex, PlacementTable, tuple[MissingImage, ...], HeldOut | None]:
    """Read the images and place them; regularization images that will be drawn are counted as if they were there.

    What is held out for validation is not among them.
    """
    sources = find_sources(
        options.regularization,
        options.data,
        lambda prompt: drawing_folder(model, prompt, options.data.resolution),
    )
    apart = {options.validation.path: "validation images"} if options.validation.path else {}
    index, held_out = hold_out(build_index(options.data, sources, apart), options.data, options.validation)
    placements = PlacementTable.of(place_images(index.images, options.data))
    missing: list[MissingImage] = []
    for source in sources:
        if found := find_missing(source, index, placements):
            index, placements = with_planned(index, placements, source, found)
            missing += found
    return index, placements, tuple(missing), held_out


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
    from sdtune.train.assembly.combine import CombinedMethod

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
