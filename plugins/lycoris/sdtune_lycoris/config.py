"""Options of LyCORIS and DyLoRA."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sdtune.api import LearningRate, Options, Stop, TargetRule

Algo = Literal["locon", "loha", "lokr", "ia3", "full", "glora", "diag-oft", "boft"]
Preset = Literal["full", "full-lin", "attn-mlp", "attn-only", "unet-only", "transformer-only", "convblock-only"]
Rank = Annotated[int, Field(ge=1, le=4096)]
Alpha = Annotated[float, Field(gt=0, le=65536)]
Probability = Annotated[float, Field(ge=0, lt=1)]

_RANKED = frozenset({"rank", "conv_rank"})
_SCALED = _RANKED | {"alpha", "conv_alpha", "rs_lora", "scalar"}
_DECOMPOSED = _SCALED | {"tucker", "weight_decompose"}
# Which of the options that not all algorithms have each algorithm uses.
USES: dict[str, frozenset[str]] = {
    "locon": _DECOMPOSED,
    "loha": _DECOMPOSED,
    "lokr": _DECOMPOSED | {"factor", "full_matrix", "decompose_both"},
    "ia3": frozenset({"on_input"}),
    "full": frozenset({"bias"}),
    "glora": frozenset({"rank", "alpha", "rs_lora", "scalar"}),
    "diag-oft": _RANKED | {"constraint", "rescaled"},
    "boft": _RANKED | {"constraint", "rescaled"},
}


class TrainedParts(Options):
    """Which layers learn, and how fast."""

    preset: Preset = "full"
    """Layers by name. `full`: all; `full-lin`: all linear ones; `attn-mlp`: the transformers of UNet and text encoder;
    `attn-only`: their attention; `unet-only`: all of the UNet; `transformer-only` and `convblock-only`: its
    transformers, its resnets and samplers."""
    unet: bool = True
    """Train the UNet."""
    text_encoder: bool = True
    """Train the text encoder, where the preset has it. Off: a step is shorter, as captions are encoded once only."""
    unet_lr: LearningRate | None = None
    """Learning rate of the UNet; None: `train.lr`; 0 does not train it."""
    text_encoder_lr: LearningRate | None = None
    """Learning rate of the text encoder; None: half of `train.lr`, as it overfits sooner; 0 does not train it."""
    text_encoder_stop: Stop | None = None
    """When the text encoder stops learning: a step, a fraction of the run such as 0.75, or `75%`. None: never."""

    @property
    def trains_unet(self) -> bool:
        """Tell whether the UNet learns."""
        return self.unet and self.unet_lr != 0

    @property
    def trains_text_encoder(self) -> bool:
        """Tell whether the text encoder learns."""
        in_preset = self.preset in {"full", "full-lin", "attn-mlp", "attn-only"}
        return in_preset and self.text_encoder and self.text_encoder_lr != 0

    @model_validator(mode="after")
    def _check_parts(self) -> TrainedParts:
        if not (self.trains_unet or self.trains_text_encoder):
            raise ValueError("nothing to train: switch on unet or text_encoder, with a learning rate above 0")
        return self


class LycorisRule(TargetRule):
    """Options for the layers a pattern matches. Of several rules that match a layer, the last one alone counts."""

    algo: Algo | None = None
    """Algorithm of these layers; also brings in layers that the preset leaves out. None: as without the rule."""
    rank: Rank | None = None
    """Rank; also brings in layers that the preset leaves out. None: as without the rule."""
    alpha: Alpha | None = None
    """Alpha; None keeps alpha / rank as elsewhere."""
    factor: Annotated[int, Field(ge=1, le=4096)] | None = None
    """LoKr's factor; None: as without the rule."""
    lr: LearningRate | None = None
    """Learning rate, instead of the part's; 0 leaves the layers out."""

    @model_validator(mode="after")
    def _check_exclude(self) -> LycorisRule:
        if self.exclude and (self.algo, self.rank, self.alpha, self.factor, self.lr) != (None,) * 5:
            raise ValueError("a rule that excludes takes no algo, rank, alpha, factor or lr")
        return self


class LycorisOptions(TrainedParts):
    """LyCORIS (Yeh et al. 2023): adapters of many forms."""

    algo: Algo = "locon"
    """`locon`: low rank; `loha`: a product of two, higher rank in the same size; `lokr`: Kronecker product, smallest
    files; `ia3`: a factor for each channel; `full`: the whole difference; `glora`: low rank on weight and input;
    `diag-oft`, `boft`: rotations."""
    rank: Rank = 16
    """Rank; for `diag-oft` and `boft` the size of a block, or below. `lokr`: large values make the large part full."""
    alpha: Alpha | None = None
    """Strength: the change is scaled by alpha / rank. None: alpha = rank, scale 1."""
    conv_rank: Rank | None = None
    """Rank of 3x3 convolutions. None: as `rank`."""
    conv_alpha: Alpha | None = None
    """Alpha of 3x3 convolutions. None: alpha / rank as elsewhere, or 1 with an own `conv_rank`."""
    rs_lora: bool = False
    """Scale by alpha / sqrt(rank) instead of alpha / rank: high ranks learn as fast as low ones."""
    scalar: bool = False
    """One more learned factor for each layer, beginning at zero; then all other factors begin at random."""
    tucker: bool = False
    """3x3 convolutions by a small core and two matrices: fewer parameters."""
    weight_decompose: bool = False
    """DoRA (Liu et al. 2024): the length of each input column is learned apart from its direction."""
    factor: Annotated[int, Field(ge=1, le=4096)] | None = None
    """LoKr: the small matrix has this side, or the next below that divides. None: both matrices alike in size."""
    full_matrix: bool = False
    """LoKr: neither matrix is of low rank; rank and alpha have no effect."""
    decompose_both: bool = False
    """LoKr: the small matrix is of low rank too, where that is smaller."""
    on_input: bool = False
    """(IA)^3: a factor for each input channel instead of each output channel."""
    bias: bool = True
    """Full: train biases too."""
    constraint: Annotated[float, Field(gt=0)] | None = None
    """OFT: upper bound on the rotation's norm, over the number of rows. None: no bound; 1e-4 is small."""
    rescaled: bool = False
    """OFT: learn a factor for each row too."""
    norms: bool = False
    """Train the UNet's norms too: weight and bias of each."""
    rank_dropout: Probability = 0.0
    """Chance that an output channel goes without its change in a step; the others are scaled by 1 / (1 - p)."""
    module_dropout: Probability = 0.0
    """Chance that a layer goes without its change in a step."""
    targets: tuple[LycorisRule, ...] = ()
    """Rules for layers by path: own algorithm, rank, alpha, factor, learning rate, or exclusion."""
    save_as: Literal["auto", "native", "diff"] = "auto"
    """Form of the file. `native`: the algorithm's own; `diff`: the whole difference, large, read by A1111, Forge and
    ComfyUI. `auto`: native, but `diff` where a webui would apply it wrongly: `ia3`, and `diag-oft` with `rescaled`."""

    @property
    def algos(self) -> tuple[Algo, ...]:
        """All algorithms of the run, the main one first."""
        return tuple(dict.fromkeys([self.algo, *(rule.algo for rule in self.targets if rule.algo is not None)]))

    @model_validator(mode="after")
    def _check_uses(self) -> LycorisOptions:
        used = frozenset().union(*(USES[algo] for algo in self.algos))
        for name in sorted(frozenset().union(*USES.values()) - used):
            if _is_set(self, name):
                raise ValueError(f"{name} must not be set with algo {', '.join(self.algos)}: it has no effect")
        for rule in self.targets:
            algo = rule.algo or self.algo
            for name in ("rank", "alpha", "factor"):
                if _is_set(rule, name) and name not in USES[algo]:
                    raise ValueError(f"{name} must not be set in the rule {rule.match!r} with algo {algo}")
        return self

    @model_validator(mode="after")
    def _check_together(self) -> LycorisOptions:
        if self.norms and not self.trains_unet:
            raise ValueError("norms must not be set where the UNet is not trained: only its norms are")
        if self.full_matrix and self.decompose_both:
            raise ValueError("full_matrix and decompose_both must not be set together")
        if self.full_matrix and self.tucker and self.algos == ("lokr",):
            raise ValueError("tucker must not be set with full_matrix: it has no effect")
        if self.conv_alpha is not None and self.conv_rank is None:
            raise ValueError("conv_alpha has no effect without conv_rank")
        if self.save_as == "diff" and self.algos == ("full",):
            raise ValueError("save_as must not be diff with algo full: it is diff already")
        return self


class DyloraOptions(TrainedParts):
    """DyLoRA (Valipour et al. 2022): a LoRA that can be cut to lower ranks after training."""

    preset: Preset = "attn-mlp"
    """Layers by name, as for lycoris: `full`, `full-lin`, `attn-mlp`, `attn-only`, `unet-only`, `transformer-only`,
    `convblock-only`."""
    rank: Rank = 16
    """Largest rank."""
    alpha: Alpha | None = None
    """Strength: at full rank the change is scaled by alpha / rank. None: alpha = rank, scale 1."""
    unit: Rank = 4
    """Ranks are trained in groups of so many; a file can be cut to multiples of it. Must divide rank."""
    targets: tuple[TargetRule, ...] = ()
    """Rules for layers by path: `match`, and `exclude`."""

    @model_validator(mode="after")
    def _check_unit(self) -> DyloraOptions:
        if self.rank % self.unit:
            raise ValueError(f"unit must divide rank: {self.unit} does not divide {self.rank}")
        if not all(rule.exclude for rule in self.targets):
            raise ValueError("a rule in targets must exclude: it has no other effect")
        return self


def _is_set(options: Options, name: str) -> bool:
    default: Any = type(options).model_fields[name].default
    return bool(getattr(options, name) != default)
