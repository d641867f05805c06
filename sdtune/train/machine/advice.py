"""What to change when memory is used up: settings that are not in use yet, the least harmful first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sdtune.config.schema import CoreOptions
    from sdtune.models.base import Part
    from sdtune.train.run import Run

    # Settings to the bytes they save, None where it is not known.
    Forecast = Callable[[Mapping[str, str]], int | None]

_COUNT = 3
_SIDES = (0.75, 0.5, 0.375)
_FINE_PX = 256  # below it sides are multiples of 8, as buckets have them
_ADAM, _ADAM_8BIT = 8, 2  # bytes of state for each trained number
_LEAST_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a run holds in memory beside activations.

    Attributes:
        unet_bytes: The UNet.
        text_bytes: The text encoders; 0 when they are not loaded.
        vae_bytes: The VAE; 0 when it is not loaded.
        trained: How many numbers are trained.
        is_fp32: Whether frozen parts are held in float32.
        trains_text: Whether the text encoder's answers change while training.
    """

    unet_bytes: int
    text_bytes: int
    vae_bytes: int
    trained: int
    is_fp32: bool
    trains_text: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """Settings that need less memory.

    Attributes:
        changes: Option to its new value, as the command line takes it.
        effect: What they do, in a few words.
        saving_bytes: How much they save, where it can be told.
    """

    changes: Mapping[str, str]
    effect: str
    saving_bytes: int | None = None

    def render(self, missing: int | None = None) -> str:
        """Give one line; it tells whether the saving is enough where it is known how many bytes are missing."""
        words = " ".join(f"{option}={value}" for option, value in self.changes.items())
        saved = f"saves {_bytes_text(self.saving_bytes)}" if self.saving_bytes else ""
        enough = "enough by the forecast" if missing and (self.saving_bytes or 0) >= missing else ""
        about = ", ".join(text for text in (saved, enough, self.effect) if text)
        return f"{words} ({about})"


def advise_training(options: CoreOptions, sizes: Sizes, forecast: Forecast | None = None) -> tuple[Remedy, ...]:
    """List what makes a training step smaller, the least harmful first; at least three.

    Args:
        options: The run's options, with their resolution.
        sizes: What the run holds.
        forecast: Tells what settings save, where it can, instead of the estimate here; those that save nothing are left
            out.
    """
    return _judged([*_harmless(options, sizes), *_costly(options, sizes), *_smaller_pictures(options)], forecast)


def advise_encoding(options: CoreOptions, sizes: Sizes, forecast: Forecast | None = None) -> tuple[Remedy, ...]:
    """List what makes filling the caches smaller, in the same way."""
    found = []
    if (count := options.data.cache.vae_batch_size) > 1:
        effect = f"one image at a time instead of {count}"
        found.append(Remedy(changes={"data.cache.vae_batch_size": "1"}, effect=effect))
    if sizes.is_fp32:
        half = (sizes.vae_bytes + sizes.text_bytes) // 2
        found.append(Remedy(changes={"train.precision": "bf16"}, effect="half the digits", saving_bytes=half))
    return _judged([*found, *_smaller_pictures(options)], forecast)


def training_hint(run: Run) -> str:
    """Give the three least harmful remedies for a step that does not fit, by a forecast where there is one."""
    from sdtune.train.planning import remeasure

    remedies = advise_training(run.options, sizes_of(run), partial(remeasure.saving, run))
    return _render(remedies, remeasure.missing_bytes(run))


def encoding_hint(run: Run) -> str:
    """Give the three least harmful remedies for caches that cannot be filled."""
    return _render(advise_encoding(run.options, sizes_of(run)))


def sizes_of(run: Run) -> Sizes:
    """Measure what a run holds."""
    return Sizes(
        unet_bytes=_part_bytes(run, "unet"),
        text_bytes=_part_bytes(run, "text_encoder"),
        vae_bytes=_part_bytes(run, "vae"),
        trained=sum(parameter.numel() for parameter in run.parameters().values()),
        is_fp32=run.model.source.dtype.itemsize == 4,
        trains_text=run.trains_text,
    )


def _render(remedies: Sequence[Remedy], missing: int | None = None) -> str:
    return "try " + ", or ".join(remedy.render(missing) for remedy in remedies[:_COUNT])


def _judged(remedies: Sequence[Remedy], forecast: Forecast | None) -> tuple[Remedy, ...]:
    if forecast is None:
        return tuple(remedies)
    found = []
    for remedy in remedies:
        saved = forecast(remedy.changes)
        if saved is None:
            found.append(remedy)
        elif saved > 0:
            found.append(replace(remedy, saving_bytes=saved))
    return tuple(found)


def _harmless(options: CoreOptions, sizes: Sizes) -> Iterator[Remedy]:
    """Give what costs time at most, and no quality."""
    train, data = options.train, options.data
    if not train.gradient_checkpointing:
        yield Remedy(changes={"train.gradient_checkpointing": "true"}, effect="saves most activations, a third slower")
    if data.cache.latents == "off":
        yield Remedy(
            changes={"data.cache.latents": "disk"}, effect="without the VAE in memory", saving_bytes=sizes.vae_bytes
        )
    if data.cache.text == "off" and not (sizes.trains_text or data.shuffle_tags or data.tag_dropout):
        yield Remedy(
            changes={"data.cache.text": "ram"},
            effect="without the text encoder in memory",
            saving_bytes=sizes.text_bytes,
        )
    if (count := train.batch_size) > 1 and not any(subset.batch_size for subset in data.subsets):
        batches = train.gradient_accumulation * 2
        changes = {"train.batch_size": str(-(-count // 2)), "train.gradient_accumulation": str(batches)}
        yield Remedy(changes=changes, effect="saves half of the activations, with as many images a step")


def _costly(options: CoreOptions, sizes: Sizes) -> Iterator[Remedy]:
    """Give what costs digits, or a feature."""
    train = options.train
    if sizes.is_fp32:
        half = (sizes.unet_bytes + sizes.text_bytes + sizes.vae_bytes) // 2
        yield Remedy(changes={"train.precision": "bf16"}, effect="and about half of the activations", saving_bytes=half)
    saved = (_ADAM - _ADAM_8BIT) * sizes.trained
    if train.optimizer.name == "adamw" and saved >= 16 * _LEAST_BYTES:
        changes = {"train.optimizer.name": "adamw8bit"}
        yield Remedy(changes=changes, effect="the optimizer's state", saving_bytes=saved)
    if train.ema.decay is not None and (average := 4 * sizes.trained) >= 16 * _LEAST_BYTES:
        yield Remedy(changes={"train.ema.decay": "null"}, effect="no average", saving_bytes=average)


def _smaller_pictures(options: CoreOptions) -> Iterator[Remedy]:
    width, height = options.data.size_px
    for share in _SIDES:
        sides = (_rounded(width * share), _rounded(height * share))
        size = f"{sides[0]}x{sides[1]}" if width != height else str(sides[0])
        left = sides[0] * sides[1] / (width * height)
        yield Remedy(changes={"data.resolution": size}, effect=f"saves {1 - left:.0%} of the activations")


def _rounded(side: float) -> int:
    unit = 64 if side >= _FINE_PX else 8
    return max(unit, int(side) // unit * unit)


def _part_bytes(run: Run, part: Part) -> int:
    if not run.model.is_loaded(part):
        return 0
    return sum(tensor.numel() * tensor.element_size() for tensor in run.model.part(part).parameters())


def _bytes_text(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{max(count, _LEAST_BYTES) / _LEAST_BYTES:.0f} MiB"
