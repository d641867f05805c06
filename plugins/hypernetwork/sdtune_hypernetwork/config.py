"""Options of hypernetworks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sdtune.api import LearningRate, Options

Initialisation = Literal["Normal", "KaimingUniform", "KaimingNormal", "XavierUniform", "XavierNormal"]
# webui's own names, then the classes of torch.nn.modules.activation in lower case that need no arguments. Not `glu`,
# which halves its input: no network of webui's runs with it.
ACTIVATIONS = (
    *("linear", "relu", "leakyrelu", "elu", "swish", "tanh", "sigmoid"),
    *("celu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "logsigmoid", "logsoftmax", "mish"),
    *("prelu", "relu6", "rrelu", "selu", "silu", "softmax", "softmax2d", "softmin", "softplus", "softshrink"),
    *("softsign", "tanhshrink"),
)


def _split(value: Any) -> Any:
    """Read `1, 2, 1` as webui's fields do."""
    return [item for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _check_activation(value: Any) -> Any:
    if value not in ACTIVATIONS:
        raise ValueError(f"must be one of {', '.join(ACTIVATIONS)}")
    return value


Sizes = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_split), Field(min_length=1)]
Structure = Annotated[tuple[Annotated[float, Field(gt=0, le=64)], ...], BeforeValidator(_split), Field(min_length=2)]
Dropout = Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], BeforeValidator(_split)]
Strength = Annotated[float, Field(gt=0, le=10)]


class FormOptions(Options):
    """What a network is made of, as webui's tab `Create hypernetwork` asks."""

    structure: Structure = (1, 2, 1)
    """Widths of the layers as factors on the context's; the first and the last are 1. `1, 2, 1` is webui's default."""
    activation: Annotated[str, BeforeValidator(_check_activation)] = "linear"
    """Function after each linear layer but the last: linear (none), relu, leakyrelu, elu, swish (which is Hardswish, as
    in webui), tanh, sigmoid, or a class of torch.nn.modules.activation in lower case. ComfyUI knows these seven,
    softsign and mish."""
    activate_output: bool = False
    """Apply the activation after the last linear layer too."""
    layer_norm: bool = False
    """A LayerNorm after each linear layer. With an activation, and `activate_output` off, ComfyUI computes something
    else than webui."""
    dropout: Dropout | None = None
    """Chance of dropout behind each layer, as many numbers as `structure` has; the first and the last are 0. null:
    none."""

    @model_validator(mode="after")
    def _check_structure(self) -> FormOptions:
        if self.structure[0] != 1 or self.structure[-1] != 1:
            raise ValueError("structure must begin and end with 1")
        if self.dropout is not None and len(self.dropout) != len(self.structure):
            raise ValueError(f"dropout must have {len(self.structure)} numbers, as structure has")
        if self.dropout is not None and (self.dropout[0], self.dropout[-1]) != (0, 0):
            raise ValueError("dropout must begin and end with 0")
        return self


class ChainOptions(Options):
    """A finished hypernetwork that acts before the trained one."""

    file: Path
    """Its `.pt` file."""
    strength: Strength = 1.0
    """Factor on its change, as in `<hypernet:NAME:STRENGTH>`."""


def _as_chain(value: Any) -> Any:
    return {"file": value} if isinstance(value, str | Path) else value


class HypernetworkOptions(FormOptions):
    """Hypernetworks (webui): y = x + N(x), before the keys and values of attention; the model stays frozen."""

    sizes: Sizes | None = None
    """Widths of the contexts it acts on, e.g. `320, 640, 1280` (self-attention) and `768` (text) for SD1. null: all
    that the model has."""
    init: Initialisation = "Normal"
    """How weights of linear layers begin: Normal (deviation 0.01), KaimingUniform, KaimingNormal, XavierUniform,
    XavierNormal; biases at 0. No choice leaves the model's answer as it was: N begins small, not at zero."""
    lr: LearningRate | None = None
    """Learning rate, also as `rate:step` pairs; null: `train.lr`."""
    strength: Strength = 1.0
    """Factor on its change while training; files are used with the same factor, e.g. `<hypernet:NAME:0.8>`."""
    chain: tuple[Annotated[ChainOptions, BeforeValidator(_as_chain)], ...] = ()
    """Finished hypernetworks that act before it, in order; frozen, and not in its file."""
    from_file: Path | None = None
    """Start from this hypernetwork (.pt). What it is made of and its sizes are taken from the file, not from here."""
    export_dropout: bool = False
    """Keep dropout in the file, as webui writes it, so that training can go on there; ComfyUI would draw with it. Off:
    the same network without its dropout, which every program reads alike."""
    save_optimizer: bool = False
    """Write `NAME.pt.optim` too: beside the file in models/hypernetworks, webui's Train tab goes on with its state."""
