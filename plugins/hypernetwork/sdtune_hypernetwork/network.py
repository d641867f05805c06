"""webui's network: N of y = x + N(x), and the pairs of them that make a hypernetwork."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sdtune.api import ConfigError, derive_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sdtune_hypernetwork.config import FormOptions, Initialisation

SIDES = ("k", "v")
_DEVIATION = 0.01
_BATCH = 0
# Without a dimension these take the first of (B, L, D), and warn.
_OVER_BATCH: Mapping[str, Callable[..., nn.Module]] = {
    "softmax": nn.Softmax,
    "softmin": nn.Softmin,
    "logsoftmax": nn.LogSoftmax,
    "softmax2d": nn.Softmax,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What a network is made of.

    Attributes:
        structure: Widths as factors on the context's width; first and last 1.
        activation: webui's name; `linear` is none.
        activate_output: Apply it after the last linear layer too.
        layer_norm: A LayerNorm after each linear layer.
        dropout: Chance behind each layer, as long as `structure`; first and last 0.
    """

    structure: tuple[float, ...] = (1, 2, 1)
    activation: str = "linear"
    activate_output: bool = False
    layer_norm: bool = False
    dropout: tuple[float, ...] = (0, 0, 0)

    @classmethod
    def from_options(cls, options: FormOptions) -> Form:
        """Take it from options."""
        return cls(
            structure=options.structure,
            activation=options.activation,
            activate_output=options.activate_output,
            layer_norm=options.layer_norm,
            dropout=options.dropout or (0,) * len(options.structure),
        )

    @property
    def without_dropout(self) -> Form:
        """The same for use: dropout does nothing then."""
        return replace(self, dropout=(0,) * len(self.structure))


class ContextNetwork(nn.Module):
    """N: linear layers, each followed by activation, LayerNorm and dropout where there are.

    Attributes:
        linear: All of them in order; names in files are `linear.I.weight`, I counting every member.
    """

    def __init__(self, width: int, form: Form) -> None:
        super().__init__()
        self.linear = nn.Sequential(*_members(width, form))

    def forward(self, x: Tensor) -> Tensor:
        """Compute N(x), (..., width), in the dtype of x; weights are float32."""
        if x.dtype == torch.float32:
            return cast("Tensor", self.linear(x))
        weights = {name: parameter.to(x.dtype) for name, parameter in self.linear.named_parameters()}
        return cast("Tensor", functional_call(self.linear, weights, (x,)))

    @torch.no_grad()
    def reset(self, init: Initialisation, activation: str, generator: torch.Generator) -> None:
        """Draw weights as webui does: a LayerNorm's always from N(0, 0.01), biases 0."""
        for member in self.linear:
            if isinstance(member, nn.LayerNorm) or (isinstance(member, nn.Linear) and init == "Normal"):
                member.weight.normal_(0, _DEVIATION, generator=generator)
            elif isinstance(member, nn.Linear):
                _draw(init, member.weight, activation, generator)
            if isinstance(member, nn.LayerNorm | nn.Linear):
                member.bias.zero_()


class Hypernetwork(nn.Module):
    """A pair of networks for each width of context: one before keys, one before values.

    Args:
        sizes: Widths.
        form: What each network is made of.

    Raises:
        ConfigError: A layer would have no neuron.
    """

    def __init__(self, sizes: Iterable[int], form: Form) -> None:
        super().__init__()
        self.form = form
        self.sizes = tuple(dict.fromkeys(sizes))
        for size in self.sizes:
            _check_widths(size, form)
            self.add_module(str(size), nn.ModuleDict({side: ContextNetwork(size, form) for side in SIDES}))

    def __contains__(self, size: int) -> bool:
        return size in self.sizes

    def keep(self, sizes: Iterable[int]) -> None:
        """Drop the networks of all other sizes."""
        kept = set(sizes)
        for size in self.sizes:
            if size not in kept:
                delattr(self, str(size))
        self.sizes = tuple(size for size in self.sizes if size in kept)

    def network(self, size: int, side: str) -> ContextNetwork:
        """Give the network for contexts of width `size`, before keys (`k`) or values (`v`)."""
        return cast("ContextNetwork", self.get_submodule(f"{size}.{side}"))

    def reset(self, init: Initialisation, seed: int) -> None:
        """Draw all weights; those of a network hang on the seed, its size and its side alone."""
        for size in self.sizes:
            for side in SIDES:
                generator = derive_generator(seed, "init", f"hypernetwork.{size}.{side}")
                self.network(size, side).reset(init, self.form.activation, generator)

    def learned(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name what is trained, e.g. `768.k.linear.0.weight`: linear layers and LayerNorms, as in webui."""
        for path, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                for name, parameter in module.named_parameters(recurse=False):
                    yield f"{path}.{name}", parameter


def make_activation(name: str) -> nn.Module | None:
    """Build an activation by webui's name; None for `linear`."""
    if name == "linear":
        return None
    if name in _OVER_BATCH:
        return _OVER_BATCH[name](dim=_BATCH)
    if name == "swish":
        return nn.Hardswish()
    classes = {key.lower(): value for key, value in vars(nn.modules.activation).items() if isinstance(value, type)}
    activation: nn.Module = classes[name]()
    return activation


def _members(width: int, form: Form) -> Iterator[nn.Module]:
    last = len(form.structure) - 1
    for index, (narrow, wide) in enumerate(pairwise(form.structure), start=1):
        yield _empty_linear(int(width * narrow), int(width * wide))
        activation = make_activation(form.activation)
        if activation is not None and (index < last or form.activate_output):
            yield activation
        if form.layer_norm:
            yield nn.LayerNorm(int(width * wide))
        if form.dropout[index] > 0:
            yield nn.Dropout(form.dropout[index])


def _empty_linear(inputs: int, outputs: int) -> nn.Linear:
    """Give a layer without drawing its weights: that would move torch's global generator."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]  # torch 2.13
    return layer


def _check_widths(size: int, form: Form) -> None:
    for factor in form.structure:
        if int(size * factor) < 1:
            raise ConfigError(
                f"hypernetwork.structure: {factor:g} leaves no neuron of a context of width {size}",
                hint="take a greater factor",
            )


def _draw(init: Initialisation, weight: Tensor, activation: str, generator: torch.Generator) -> None:
    nonlinearity: Literal["leaky_relu", "relu"] = "leaky_relu" if activation == "leakyrelu" else "relu"
    match init:
        case "KaimingUniform":
            nn.init.kaiming_uniform_(weight, nonlinearity=nonlinearity, generator=generator)
        case "KaimingNormal":
            nn.init.kaiming_normal_(weight, nonlinearity=nonlinearity, generator=generator)
        case "XavierUniform":
            nn.init.xavier_uniform_(weight, generator=generator)
        case "XavierNormal":
            nn.init.xavier_normal_(weight, generator=generator)
