"""Frozen linear layers in 8 or 4 bits: their weights are made anew whenever they are looked at.

- `int8`: a row's weights are whole numbers from -127 to 127 times the row's scale. That is the weight's half of
  LLM.int8() (Dettmers et al. 2022, section 2.1); activations stay as they are, since training needs their digits.
- `nf4`: 4-bit NormalFloat (Dettmers et al. 2023, section 3), by bitsandbytes, in blocks of 64 with scales in 8 bits.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sdtune.errors import ConfigError, PlatformError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sdtune.config.model import Quantization

# mypy: disable-error-code="override"
# Function.forward and backward are declared to take anything.

_LARGEST = 127
_BLOCK = 64
# Attention and MLP, where nearly all weights of linear layers are; embeddings of time and size are small and sensitive.
_INSIDE = (".transformer_blocks.", ".layers.")


class _Packed(Protocol):
    """A weight in few bits."""

    nbytes: int

    def unpack(self, dtype: torch.dtype) -> Tensor: ...


class Int8:
    """A weight (out, in) in 8 bits, with a scale for each row."""

    def __init__(self, weight: Tensor) -> None:
        weight = weight.float()
        # a row of zeros stays one, whatever it is divided by
        self._scale = (weight.abs().amax(dim=1, keepdim=True) / _LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
        self._codes = (weight / self._scale).round().to(torch.int8)
        self.nbytes = self._codes.nbytes + self._scale.nbytes

    def unpack(self, dtype: torch.dtype) -> Tensor:
        """Give the weight, off by at most half of a 127th of the row's largest."""
        return (self._codes * self._scale).to(dtype)


class Nf4:
    """A weight (out, in) in 4 bits."""

    def __init__(self, weight: Tensor) -> None:
        functional = _bitsandbytes()
        self._functional = functional
        self._codes, self._state = functional.quantize_4bit(
            weight.contiguous(), blocksize=_BLOCK, compress_statistics=True, quant_type="nf4"
        )
        self.nbytes = self._codes.nbytes + self._state.absmax.nbytes

    def unpack(self, dtype: torch.dtype) -> Tensor:
        """Give the weight."""
        weight: Tensor = self._functional.dequantize_4bit(self._codes, self._state)
        return weight.to(dtype)


_FORMS: dict[Quantization, Callable[[Tensor], _Packed]] = {"int8": Int8, "nf4": Nf4}


def check_quantization(form: Quantization | None) -> None:
    """Look for the package that a form needs.

    Raises:
        PlatformError: It is not installed.
    """
    if form == "nf4":
        _bitsandbytes()


def check_whole(part: str, form: Quantization | None) -> None:
    """Refuse to train a part as a whole that is to be held in few bits.

    Raises:
        ConfigError: It is.
    """
    if form is not None:
        raise ConfigError(
            f"model.quantize={form} is for frozen weights, but the whole {part.replace('_', ' ')} is trained",
            hint="leave model.quantize out; train.weights=bf16 halves what is trained",
        )


def _bitsandbytes() -> Any:
    try:
        from bitsandbytes import functional
    except ImportError as error:
        raise PlatformError(
            "model.quantize: nf4 needs the package bitsandbytes", hint="pip install 'sdtune[bnb]', or use int8"
        ) from error
    return functional


# of a weight: its codes, and a scale in 32 bits for each row, or in 8 bits for each block
_PACKED_BYTES: dict[Quantization, Callable[[Tensor], int]] = {
    "int8": lambda weight: weight.numel() + 4 * len(weight),
    "nf4": lambda weight: weight.numel() // 2 + weight.numel() // _BLOCK,
}


class QuantizedLinear(nn.Linear):
    """A frozen linear layer whose weight is kept in few bits, and looks as if it were not.

    `weight` is made anew at each look, in the dtype of computation; neither forward nor backward keeps it. While
    `exact` it is read from where it is stored, in all its digits.

    Attributes:
        bias: (out,) or None.
        is_exact: `weight` is as stored.
    """

    def __init__(
        self,
        linear: nn.Linear,
        weight: Tensor,
        form: Quantization,
        read: Callable[[torch.dtype], Tensor],
    ) -> None:
        """Pack the weight of a layer.

        Args:
            linear: The layer whose place it takes; its bias is taken over.
            weight: (out, in), on its device, in the dtype of computation.
            form: How it is packed.
            read: Gives it as stored.
        """
        nn.Module.__init__(self)  # without that of Linear, which would make a weight of full size
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_parameter("bias", linear.bias)
        self.is_exact = False
        self._dtype, self._device = weight.dtype, weight.device
        self._read = read
        self._packed = _FORMS[form](weight)

    @property
    def weight(self) -> Tensor:
        """(out, in), a new tensor each time."""
        if self.is_exact:
            return self._read(self._dtype).reshape(self.out_features, self.in_features).to(self._device)
        return self._packed.unpack(self._dtype)

    @property
    def nbytes(self) -> int:
        """Bytes the weight takes."""
        return self._packed.nbytes

    @property
    def full_nbytes(self) -> int:
        """Bytes it would take unpacked."""
        return self.out_features * self.in_features * self._dtype.itemsize

    def forward(self, x: Tensor) -> Tensor:
        """Give x W^T + b, with x (..., in)."""
        answer: Tensor = _FrozenLinear.apply(x, self)  # type: ignore[no-untyped-call]  # torch has no types for it
        return answer


class _FrozenLinear(Function):
    """y = x W^T + b, with W made in forward and once more in backward, and kept by neither."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight.to(x.dtype), layer.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.layer.weight.to(grad.dtype), None


def is_quantizable(name: str) -> bool:
    """Tell whether a linear layer is one that is packed: inside a transformer's block."""
    return any(inside in name for inside in _INSIDE)


def quantized_layers(model: nn.Module) -> Iterator[QuantizedLinear]:
    """List the packed layers of a model."""
    return (module for module in model.modules() if isinstance(module, QuantizedLinear))


def packed_saving(module: nn.Module, form: Quantization | None) -> int:
    """Tell how many bytes a part as stored would lose by being packed."""
    if form is None:
        return 0
    weights = [
        layer.weight for name, layer in module.named_modules() if isinstance(layer, nn.Linear) and is_quantizable(name)
    ]
    return sum(weight.nbytes - _PACKED_BYTES[form](weight) for weight in weights)


def packed_names(module: nn.Module, prefix: str) -> list[str]:
    """Name the weights of packed layers, with `prefix` before the module's own names."""
    return [f"{prefix}{name}.weight" for name, layer in module.named_modules() if isinstance(layer, QuantizedLinear)]


@contextmanager
def exact(model: nn.Module) -> Iterator[None]:
    """Let packed layers of a model give their weights as stored, for as long as the context lasts."""
    layers = list(quantized_layers(model))
    for layer in layers:
        layer.is_exact = True
    try:
        yield
    finally:
        for layer in layers:
            layer.is_exact = False


def describe_quantization(model: nn.Module, form: Quantization | None) -> str:
    """Tell for the plan what the packed layers of a model's loaded parts take; empty where nothing is packed."""
    if form is None:
        return ""
    layers = list(quantized_layers(model))
    packed, full = (sum(sizes) / 2**20 for sizes in ([a.nbytes for a in layers], [a.full_nbytes for a in layers]))
    if math.isclose(full, 0):
        return f", linear layers in {form}"
    return f", linear layers in {form}: {packed:.1f} MiB instead of {full:.1f}"
