"""Options of the optimizer, of the learning rate over the run, and of rates for single layers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sdtune.config.base import Options
from sdtune.config.optimizers import ArgValue, check_optimizer_name
from sdtune.config.rates import LearningRate, Span, SteppedFactor
from sdtune.config.targets import PatternRule

ScheduleName = Literal[
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "polynomial",
    "piecewise_constant",
    "inverse_sqrt",
    "warmup_stable_decay",
    "rex",
    "one_cycle",
]
_USERS = {  # an option of one curve, and the curves that have it
    "cycles": ("cosine_with_restarts",),
    "power": ("polynomial",),
    "min_ratio": ("cosine_with_min_lr", "polynomial", "warmup_stable_decay"),
    "decay": ("warmup_stable_decay",),
    "timescale": ("inverse_sqrt",),
    "factors": ("piecewise_constant",),
}


class OptimizerOptions(Options):
    """The optimizer."""

    name: Annotated[str, AfterValidator(check_optimizer_name)] = "adamw"
    """A name from [optimizers.md](optimizers.md), or `module:Class` for any other optimizer of PyTorch's kind."""
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    """Weight decay; null: the optimizer's own, 0.01 with AdamW."""
    betas: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=2, max_length=3)] | None = None
    """Decay of the moments; null: the optimizer's own, 0.9 and 0.999 with AdamW."""
    eps: Annotated[float, Field(gt=0)] | None = None
    """Term against division by zero; null: the optimizer's own, 1e-8 with AdamW."""
    args: dict[str, ArgValue] = Field(default_factory=dict)
    """Further arguments of the optimizer's class, by name, e.g. `d_coef: 0.8` for prodigy."""

    @property
    def common(self) -> dict[str, ArgValue]:
        """Those of the arguments with options of their own that are given."""
        values = {"weight_decay": self.weight_decay, "betas": self.betas, "eps": self.eps}
        return {name: value for name, value in values.items() if value is not None}


class ScheduleOptions(Options):
    """The learning rate over the run: a curve that every rate is multiplied with."""

    name: ScheduleName = "constant"
    """Shape of the curve."""
    warmup: Span = 0
    """Linear warmup: steps, a fraction of the run below 1, or a percentage such as 10%; of `one_cycle` the rise."""
    cycles: Annotated[int, Field(ge=1)] = 1
    """Restarts of `cosine_with_restarts`."""
    power: Annotated[float, Field(gt=0)] = 1.0
    """Power of `polynomial`."""
    min_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """What is left of the rate at the end: of `cosine_with_min_lr`, `polynomial` and `warmup_stable_decay`."""
    decay: Span = "20%"
    """How long `warmup_stable_decay` decays, at the end of the run; as `warmup`."""
    timescale: Annotated[int, Field(ge=1)] | None = None
    """Steps in which `inverse_sqrt` loses a third; null: the warmup, or 10,000 without one."""
    factors: SteppedFactor | None = None
    """Of `piecewise_constant`: `1:10, 0.1:20, 0.01` is factor 1 before step 10, 0.1 before step 20, then 0.01."""

    @model_validator(mode="after")
    def _check_used(self) -> Self:
        values, fields = dict(self), type(self).model_fields
        for option, users in _USERS.items():
            if values[option] != fields[option].default and self.name not in users:
                raise ValueError(f"{option} has no effect with {self.name}; it is for {', '.join(users)}")
        if self.name == "piecewise_constant" and self.factors is None:
            raise ValueError("piecewise_constant needs factors, e.g. '1:100, 0.1:200, 0.01'")
        return self


class RateRule(PatternRule):
    """The learning rate of the parameters a pattern matches; of several rules that match, the last one counts."""

    lr: LearningRate | None = None
    """Their learning rate, as `train.lr`; 0 leaves them as they are."""
    scale: Annotated[float, Field(ge=0, le=1000)] | None = None
    """Instead of `lr`: a factor on the rate they would have; 0 leaves them as they are."""

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.lr is None) == (self.scale is None):
            raise ValueError("give either lr or scale")
        return self
