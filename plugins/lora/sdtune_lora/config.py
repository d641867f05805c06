"""Options of LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from sdtune.api import LearningRate, Options, Stop, TargetRule

Rank = Annotated[int, Field(ge=1, le=4096)]
Alpha = Annotated[float, Field(gt=0, le=65536)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class BlockOptions(Options):
    """One block of the model: `down_0` to `up_3` and `mid` in a UNet, `layer_0`, `layer_1`, ... in a text encoder."""

    lr: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Factor on the learning rate; 0 leaves the block out."""
    rank: Rank | None = None
    """Rank of linear layers and 1x1 convolutions of the block; None: as everywhere. alpha / rank stays."""
    conv_rank: Rank | None = None
    """Rank of 3x3 convolutions of the block, where `conv_rank` of the whole trains them; None: as everywhere."""


class LoraRule(TargetRule):
    """Options for the layers a pattern matches. Of several rules that match a layer, the last one alone counts."""

    rank: Rank | None = None
    """Rank; also brings in resnet and sampler layers that are not trained by default. None: as without the rule."""
    alpha: Alpha | None = None
    """Alpha; None keeps alpha / rank as elsewhere."""
    lr: LearningRate | None = None
    """Learning rate, instead of the part's and the block's; 0 leaves the layers out."""

    @model_validator(mode="after")
    def _check_exclude(self) -> LoraRule:
        if self.exclude and (self.rank, self.alpha, self.lr) != (None, None, None):
            raise ValueError("a rule that excludes takes no rank, alpha or lr")
        return self


class LoraOptions(Options):
    """LoRA (Hu et al. 2021): W' = W + alpha / rank * up @ down, with W frozen."""

    rank: Rank = 16
    """Rank of linear layers and 1x1 convolutions. 16 suits a subject or a style and gives files of about 20 MB."""
    alpha: Alpha | None = None
    """Strength: the change is scaled by alpha / rank. None: alpha = rank, scale 1, the same strength at every rank."""
    conv_rank: Rank | None = None
    """Rank of 3x3 convolutions; trains resnets and samplers too (LoCon). None: only layers around attention."""
    conv_alpha: Alpha | None = None
    """Alpha of 3x3 convolutions. None: alpha = conv_rank, scale 1."""
    dropout: Probability = 0.0
    """Chance that an element between down and up is zeroed in a step."""
    rank_dropout: Probability = 0.0
    """Chance that a rank is left out for a sample in a step; the others are scaled by 1 / (1 - p)."""
    module_dropout: Probability = 0.0
    """Chance that a layer goes without its change in a step."""
    max_norm: Annotated[float, Field(gt=0)] | None = None
    """After each step, shrink changes of a norm (Frobenius, with the scale) above this. None: never; 1 is common."""
    unet: bool = True
    """Train the UNet."""
    text_encoder: bool = True
    """Train the text encoder: a new word is learned faster, and sd-scripts does so by default. Off: a step is shorter,
    as captions are encoded once only."""
    unet_lr: LearningRate | None = None
    """Learning rate of the UNet; None: `train.lr`; 0 does not train it."""
    text_encoder_lr: LearningRate | None = None
    """Learning rate of the text encoder; None: half of `train.lr`, as it overfits sooner; 0 does not train it."""
    text_encoder_stop: Stop | None = None
    """When the text encoder stops learning: a step, a fraction of the run such as 0.75, or `75%`. None: never."""
    lora_plus_ratio: Annotated[float, Field(gt=0, le=1000)] | None = None
    """LoRA+ (Hayou et al. 2024): learning rate of `up` over that of `down`; 16 is advised. None: the same rate."""
    targets: tuple[LoraRule, ...] = ()
    """Rules for layers by path: own rank, alpha, learning rate, or exclusion."""
    blocks: dict[str, BlockOptions] = Field(default_factory=dict)
    """Learning-rate factor and rank by block, e.g. `{mid: {lr: 0.5}, up_3: {rank: 4}}`."""
    from_file: Path | None = None
    """Start from this LoRA (.safetensors, kohya names), of the same layers, ranks and alphas."""

    @property
    def trains_unet(self) -> bool:
        """Tell whether the UNet learns."""
        return self.unet and self.unet_lr != 0

    @property
    def trains_text_encoder(self) -> bool:
        """Tell whether the text encoder learns."""
        return self.text_encoder and self.text_encoder_lr != 0

    @model_validator(mode="after")
    def _check_together(self) -> LoraOptions:
        if not (self.trains_unet or self.trains_text_encoder):
            raise ValueError("nothing to train: switch on unet or text_encoder, with a learning rate above 0")
        if self.conv_alpha is not None and self.conv_rank is None:
            raise ValueError("conv_alpha has no effect without conv_rank")
        return self
