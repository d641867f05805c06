"""A shorter way through torch's fake tensors, for the operations that make up nearly all of a step.

`FakeTensorMode` looks each operation up by all that might matter, or decomposes it in Python: 0.25 ms each, of which a
step has thousands. The meta device's kernel alone tells shape, dtype and storage, in a fifth of the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_aten = torch.ops.aten
_CHANGING = {_aten.addmm_.default, _aten.baddbmm_.default, _aten.add_.Tensor, _aten.mul_.Tensor}
_PRODUCTS = {_aten.mm.default, _aten.bmm.default, _aten.addmm.default, _aten.baddbmm.default}
# answers are as their first tensor, where all have its shape and dtype
_EACH = {
    *(_aten.add.Tensor, _aten.mul.Tensor, _aten.div.Tensor, _aten.clone.default, _aten.silu.default),
    *(_aten.silu_backward.default, _aten.gelu.default, _aten.gelu_backward.default),
}
_VIEWS = {
    *(_aten.view.default, _aten._unsafe_view.default, _aten.expand.default, _aten.permute.default, _aten.t.default),
    *(_aten.transpose.int, _aten.unsqueeze.default, _aten.slice.Tensor, _aten.detach.default, _aten.alias.default),
}
_OTHERS = {_aten.sum.dim_IntList, _aten.cat.default, _aten.new_zeros.default}
_NORMS = {_aten.native_group_norm.default, _aten.native_layer_norm.default}
# to the place of the weight among the arguments
_NORM_BACKWARDS = {_aten.native_group_norm_backward.default: 4, _aten.native_layer_norm_backward.default: 5}
_SHORT = frozenset(_PRODUCTS | _EACH | _VIEWS | _OTHERS | _NORMS | _NORM_BACKWARDS.keys())


class Shortcut:
    """Does operations; tensors with values are taken for fake ones of the mode."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode
        self._twins: dict[int, tuple[Tensor, FakeTensor]] = {}

    def do(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Do an operation, the short way where there is one."""
        if func in _CHANGING:
            return args[0]
        if func not in _SHORT or kwargs.get("device") is not None:
            return func(*args, **kwargs)
        given = [self._twin(arg) for arg in args]
        with in_kernel_invocation_manager(self._mode):
            out = _computed(func, given, kwargs)
        return self._wrapped(out, _device(given))

    def _twin(self, arg: Any) -> Any:
        if isinstance(arg, FakeTensor) or not isinstance(arg, torch.Tensor | list):
            return arg
        if isinstance(arg, list):
            return [self._twin(item) for item in arg]
        if id(arg) not in self._twins:
            self._twins[id(arg)] = (arg, self._mode.from_tensor(arg))
        return self._twins[id(arg)][1]

    def _wrapped(self, out: Any, device: torch.device) -> Any:
        if isinstance(out, tuple):
            return tuple(self._wrapped(item, device) for item in out)
        return out if out is None else FakeTensor(self._mode, out, device)


def _device(given: list[Any]) -> torch.device:
    """Give the device of an answer: single numbers may be elsewhere."""
    flat = (item for arg in given for item in (arg if isinstance(arg, list) else (arg,)))
    tensors = [item for item in flat if isinstance(item, FakeTensor)]
    return max(tensors, key=lambda tensor: tensor.dim() > 0).fake_device


def _computed(func: Any, given: list[Any], kwargs: Mapping[str, Any]) -> Any:
    """Do an operation on the meta device, by its shapes alone where that is known to be right."""
    if func in _PRODUCTS:
        left, right = given[-2:]
        return left.new_empty(*left.shape[:-1], right.shape[-1])
    if func in _EACH and _are_alike(given) and "memory_format" not in kwargs:
        return torch.empty_like(given[0])
    if func in _NORMS:
        return _norm(func, given)
    if func in _NORM_BACKWARDS:
        return _norm_gradients(given[1], given[_NORM_BACKWARDS[func]], given[-1])
    return func(*given, **kwargs)


def _are_alike(given: list[Any]) -> bool:
    first, *others = [arg for arg in given if isinstance(arg, torch.Tensor)]
    return all(other.shape == first.shape and other.dtype == first.dtype for other in others)


def _norm(func: Any, given: list[Any]) -> tuple[Tensor, ...]:
    """Give a norm's answer, and mean and deviation of each of its groups."""
    x = given[0]
    if func is _aten.native_group_norm.default:
        groups = (x.shape[0], given[6])
    else:
        last = len(given[1])
        groups = (*x.shape[:-last], *(1,) * last)
    return _dense(x), x.new_empty(groups), x.new_empty(groups)


def _norm_gradients(x: Tensor, weight: Tensor | None, wanted: list[bool]) -> tuple[Tensor | None, ...]:
    """Give gradients of a norm's input, weight and bias."""
    return tuple(
        _dense(tensor) if is_wanted and tensor is not None else None
        for tensor, is_wanted in zip((x, weight, weight), wanted, strict=True)
    )


def _dense(like: Tensor) -> Tensor:
    is_last = like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return torch.empty_like(like, memory_format=torch.channels_last if is_last else torch.contiguous_format)
