"""LoRA's forward and backward, each with its frozen layer in one node of the autograd graph.

Autograd over separate operations makes U h as a tensor of its own, adds it to another, and keeps what each operation
asks for. Here the small product goes into the frozen layer's output in place, and only x and the small h are kept.
Backward gives the gradients of D and U in their own dtype (float32), from products in the dtype of x.

Letters: x input, y output, g gradient of y, W and b frozen, D `lora_down`, U `lora_up`, s = alpha / rank, h = D x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor, nn

# mypy: disable-error-code="override"
# Function.forward and backward are declared to take anything.


class LinearLora(Function):
    """y = W x + b + s U D x, over the last dimension of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, up: Tensor, base: nn.Linear, scale: float) -> Tensor:
        """Compute y (..., out) from x (..., in), D (R, in) and U (out, R)."""
        y = F.linear(x, base.weight, base.bias)
        h = _rows(x) @ down.to(x.dtype).t()
        y.view(-1, y.shape[-1]).addmm_(h, up.to(x.dtype).t(), alpha=scale)
        ctx.save_for_backward(x, h, down, up)
        ctx.base, ctx.scale = base, scale  # not the weight: where it is held in few bits, each look makes a new one
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients of x, D and U."""
        x, h, down, up = ctx.saved_tensors
        g = _rows(grad)
        up = up.to(x.dtype)
        grad_h = torch.addmm(h, g, up, beta=0, alpha=ctx.scale)  # beta = 0: the first tensor gives only its shape
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (g @ ctx.base.weight).addmm_(grad_h, down.to(x.dtype)).view(x.shape)
        grad_down = (grad_h.t() @ _rows(x)).to(down.dtype)
        grad_up = torch.addmm(up, g.t(), h, beta=0, alpha=ctx.scale).to(down.dtype)
        return grad_x, grad_down, grad_up, None, None


class PointwiseLora(Function):
    """The same for a 1x1 convolution with stride 1: matrix products over pixels, for which it is faster in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, up: Tensor, base: nn.Conv2d, scale: float) -> Tensor:
        """Compute y (B, out, H, W) from x (B, in, H, W), D (R, in, 1, 1) and U (out, R, 1, 1)."""
        y = F.conv2d(x, base.weight, base.bias)
        h = down.flatten(1).to(x.dtype) @ x.flatten(2)
        _add_up(y, h, up, scale)
        ctx.save_for_backward(x, h, down, up, base.weight)
        ctx.scale = scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients of x, D and U."""
        x, h, down, up, weight = ctx.saved_tensors
        g = grad.flatten(2)
        grad_h = _scaled(up, ctx.scale, x.dtype).t() @ g
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = weight.flatten(1).t() @ g
            grad_x.baddbmm_(_batched(down.flatten(1).t().to(x.dtype), x), grad_h)
            grad_x = grad_x.view(x.shape)
        # x first and transposed last: the other order is five times slower in bfloat16 on a CPU
        grad_down = (x.flatten(2) @ grad_h.mT).sum(0, dtype=down.dtype).t()
        return grad_x, grad_down.reshape(down.shape), _grad_up(g, h, up, ctx.scale), None, None


class ConvLora(Function):
    """The same for any convolution with one group: D has the kernel of W, U is 1x1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, up: Tensor, base: nn.Conv2d, scale: float) -> Tensor:
        """Compute y (B, out, H', W') from x (B, in, H, W), D (R, in, k, k) and U (out, R, 1, 1)."""
        geometry: tuple[Any, Any, Any] = (base.stride, base.padding, base.dilation)
        y = F.conv2d(x, base.weight, base.bias, *geometry)
        h = F.conv2d(x, down.to(x.dtype), None, *geometry)
        _add_up(y, h.flatten(2), up, scale)
        ctx.save_for_backward(x, h, down, up, base.weight)
        ctx.scale, ctx.geometry = scale, geometry
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients of x, D and U."""
        x, h, down, up, weight = ctx.saved_tensors
        g = grad.flatten(2)
        grad_h = (_scaled(up, ctx.scale, x.dtype).t() @ g).view(h.shape)
        needs_x = ctx.needs_input_grad[0]
        grad_x, grad_down = _conv_backward(grad_h, x, down.to(x.dtype), ctx.geometry, (needs_x, True))
        if needs_x:
            grad_x = grad_x.add_(_conv_backward(grad, x, weight, ctx.geometry, (True, False))[0])
        return grad_x, grad_down.to(down.dtype), _grad_up(g, h.flatten(2), up, ctx.scale), None, None


def _conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: tuple[Any, Any, Any], needs: tuple[bool, bool]
) -> tuple[Any, Any]:
    """Give the gradients of a convolution's input and weight, each None where not needed."""
    backward = torch.ops.aten.convolution_backward
    grad_x, grad_weight, _ = backward(grad, x, weight, None, *geometry, False, [0, 0], 1, [*needs, False])
    return grad_x, grad_weight


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _batched(matrix: Tensor, like: Tensor) -> Tensor:
    return matrix.expand(len(like), -1, -1)


def _scaled(up: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    return (up.flatten(1) * scale).to(dtype)


def _add_up(y: Tensor, h: Tensor, up: Tensor, scale: float) -> None:
    """Add s U h to y (B, out, H, W) in place; h (B, R, H * W)."""
    pixels = y.view(*y.shape[:2], -1)  # a view, never a copy: also where channels are last in memory
    pixels.baddbmm_(_batched(up.flatten(1).to(y.dtype), y), h, alpha=scale)


def _grad_up(g: Tensor, h: Tensor, up: Tensor, scale: float) -> Tensor:
    """Give the gradient of U (out, R, 1, 1) from g (B, out, H * W) and h (B, R, H * W)."""
    grad_up: Tensor = (g @ h.mT).sum(0, dtype=up.dtype).mul_(scale)
    return grad_up.view(up.shape)
