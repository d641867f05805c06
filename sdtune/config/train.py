"""Options of the loop."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from sdtune.config.base import Options
from sdtune.config.kinds import PositiveInt
from sdtune.config.optimizer import OptimizerOptions, RateRule, ScheduleOptions
from sdtune.config.rates import LearningRate


def check_weights(value: object) -> object:
    """Say why weights are never fp16.

    Raises:
        ValueError: They would be.
    """
    if value == "fp16":
        raise ValueError(
            "fp16 cannot hold weights that learn: steps below 6e-8 vanish; use fp32 (precision may be fp16), or bf16"
        )
    return value


class EmaOptions(Options):
    """A running average of what is trained; steadier than the last step when batches are small."""

    decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the old average kept at each step, e.g. 0.9999 for 10,000 steps, 0.99 for 300. null: no average."""
    power: Annotated[float, Field(gt=0, le=10)] | None = None
    """Warmup: the decay is at most 1 - (1 + step) ** -power; 0.67 suits long runs. null: `decay` from the start."""
    export: Literal["ema", "live", "both"] = "ema"
    """Which weights files and pictures have: the average, the last step, or both (the last step as NAME-live)."""


class TrainOptions(Options):
    """The loop."""

    steps: PositiveInt | None = None
    """Optimizer steps. Give `steps` or `epochs`; there is no default length."""
    epochs: PositiveInt | None = None
    """Epochs: visits of every image, times its repeats."""
    batch_size: PositiveInt = 1
    """Images in one forward and backward."""
    gradient_accumulation: PositiveInt = 1
    """Batches in one optimizer step."""
    lr: LearningRate = 1e-4
    """Learning rate where a part has none of its own. 1e-4 suits adapters with AdamW. Also webui's notation
    `0.005:100, 1e-3:1000`: a rate, and the step before which it applies; after the last one training ends."""
    rates: tuple[RateRule, ...] = ()
    """Other rates for some parameters, e.g. `- {match: "unet.down_blocks.*", scale: 0.5}`, for every method."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Clip the norm of all gradients together; 0 does not clip."""
    max_grad_value: Annotated[float, Field(gt=0)] | None = None
    """Clip each element of the gradients to this, before the norm; null does not."""
    optimizer: OptimizerOptions = OptimizerOptions()
    """The optimizer."""
    schedule: ScheduleOptions = ScheduleOptions()
    """The learning-rate schedule."""
    ema: EmaOptions = EmaOptions()
    """A running average of the weights."""
    latent_sampling: Literal["random", "once", "deterministic"] = "random"
    """What is taken of the VAE's answer for an image: a new sample at each visit, always the same one, or the mean."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Compute dtype; `auto`: bf16 on a GPU, fp32 on a CPU. Frozen parts are held in it, trained parameters are not."""
    weights: Annotated[Literal["fp32", "bf16"], BeforeValidator(check_weights)] = "fp32"
    """Dtype of what is trained and of the optimizer's state; bf16 halves both, with stochastic rounding, for training
    whole models in little memory; it computes in bf16 too."""
    fused_backward: bool = False
    """Move each weight as soon as backward has its gradient, so that gradients are never all in memory: for whole
    models. Needs `max_grad_norm: 0` and no accumulation."""
    tf32: bool = True
    """On a GPU, let float32 products round their factors to 10 bits (TensorFloat-32), several times faster."""
    dry_step: Literal["auto"] | bool = "auto"
    """Try forward and backward of the largest batch before the first step, so that a lack of memory shows at once; no
    number changes by it. `auto`: on a GPU."""
    gradient_checkpointing: bool = False
    """Compute activations again in backward: less memory, about a third slower."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of every draw; the same seed gives the same run."""
    min_timestep: Annotated[int, Field(ge=0, le=999)] = 0
    """First timestep trained."""
    max_timestep: Annotated[int, Field(ge=1, le=1000)] = 1000
    """End of the timestep range; not itself trained."""
    threads: PositiveInt | None = None
    """CPU threads; null leaves the choice to torch. Bit-equal resume needs the same number."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give either steps or epochs, not both")
        if self.weights == "bf16" and self.precision not in ("auto", "bf16"):
            raise ValueError(f"weights bf16 are computed in bf16, not in {self.precision}: leave precision out")
        if self.min_timestep >= self.max_timestep:
            raise ValueError("min_timestep must be below max_timestep")
        return self
