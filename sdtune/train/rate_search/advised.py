"""Options of a run at a learning rate that was found: the rate, wherever a method has one of its own, and AdamW."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.config.compose import compose_schema, method_options
from sdtune.config.describe import defaults_of
from sdtune.config.dump import dump_given
from sdtune.config.optimizer import OptimizerOptions, ScheduleOptions
from sdtune.config.optimizers import find_entry
from sdtune.train.rate_search.found_rate import rounded

if TYPE_CHECKING:
    from collections.abc import Set

    from sdtune.config.base import Options
    from sdtune.config.schema import CoreOptions
    from sdtune.models.base import Part
    from sdtune.specs import MethodSpec

_TEXT_SHARE = 1 / 10  # of the UNet's rate: the text encoder overfits sooner
_USUAL_WARMUP = "5%"
_USUAL = OptimizerOptions()


def text_rate(rate: float) -> float:
    """Give the text encoder's rate that goes with the UNet's."""
    return rounded(rate * _TEXT_SHARE)


def has_text_rate(spec: MethodSpec, trained: Set[Part]) -> bool:
    """Tell whether the text encoder is trained beside something else, and a method has an option for its rate."""
    is_one_of_several = "text_encoder" in trained and len(trained) > 1
    return is_one_of_several and any("text_encoder_lr" in part.config.model_fields for part in spec.sections)


def with_rate(options: CoreOptions, spec: MethodSpec, rate: float, trained: Set[Part]) -> CoreOptions:
    """Give the same run with AdamW at a rate.

    A method's own options `lr`, `unet_lr` and `text_encoder_lr` get it too, but where they are 0. An optimizer that is
    a kind of AdamW stays. Rules of `train.rates` stay: they were meant.

    Args:
        options: The run.
        spec: Its method.
        rate: The learning rate.
        trained: Parts that are trained.
    """
    rates = {"lr": rate, "unet_lr": rate, "text_encoder_lr": rate}
    if has_text_rate(spec, trained):
        rates["text_encoder_lr"] = text_rate(rate)
    train = options.train
    warmup = train.schedule.warmup or _USUAL_WARMUP
    changed: dict[str, object] = {
        "train": train.model_copy(
            update={
                "lr": rate,
                "optimizer": final_optimizer(train.optimizer),
                "schedule": ScheduleOptions(name="constant_with_warmup", warmup=warmup),
            }
        )
    }
    for part in spec.sections:
        changed[part.name] = _with_own_rates(method_options(options, part), rates, trained)
    return options.model_copy(update=changed)


def _with_own_rates(section: Options, rates: dict[str, float], trained: Set[Part]) -> Options:
    idle = set() if "text_encoder" in trained else {"text_encoder_lr"}
    values = dict(section)
    own = {name: rate for name, rate in rates.items() if name in values and values[name] != 0}
    return section.model_copy(update={name: rate for name, rate in own.items() if name not in idle})


def final_optimizer(options: OptimizerOptions) -> OptimizerOptions:
    """Give the user's optimizer where it takes the rates that Prodigy and D-Adaptation find, else AdamW."""
    return options if find_entry(options.name).is_adamw else _USUAL


def write_options(options: CoreOptions, spec: MethodSpec) -> str:
    """Write what differs from the defaults, as YAML."""
    return dump_given(options, defaults_of(compose_schema(spec)), keep="method")
