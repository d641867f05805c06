"""How many bytes of tensors are alive at once, and how much is computed, while code runs on tensors without values."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from sdtune.train.needs.shortcut import Shortcut

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor
    from torch._subclasses.fake_tensor import FakeTensorMode

_aten = torch.ops.aten
# torch 2.13 counts attention on CUDA only; the arguments that matter are the same
_ALIKE = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _aten._scaled_dot_product_flash_attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _aten._scaled_dot_product_flash_attention_backward,
}


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Count the storages that operations make, from their first tensor to their last.

    Where code asks for a tensor's value it is told 1, or true: there is none, and checks shall pass.

    Attributes:
        live: Bytes alive now.
        peak: The most there ever were.
        flops: Floating-point operations of matrix products, convolutions and attention.
    """

    def __init__(self, mode: FakeTensorMode | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.live = self.peak = self.flops = 0
        self._known: dict[int, Any] = {}
        self._shortcut = None if mode is None else Shortcut(mode)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Let an operation happen, and count what it made."""
        kwargs = kwargs or {}
        if func is _aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else args[0].dtype == torch.bool or 1
        if func is torch.ops.prim.device.default:  # asked at every second step of the way: a tenth of all the time
            return args[0].fake_device
        out = func(*args, **kwargs) if self._shortcut is None else self._shortcut.do(func, args, kwargs)
        for tensor in [out] if isinstance(out, torch.Tensor) else tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor)
        if formula := _formula(func):
            self.flops += formula(*args, **kwargs, out_val=out)
        return out

    def exclude(self, tensor: Tensor) -> None:
        """Take a tensor for one that was there before."""
        self._known[id(tensor.untyped_storage())] = tensor

    def add(self, count: int) -> None:
        """Take in bytes that are alive from now on; less than none: that no longer are."""
        self.live += count
        self.peak = max(self.peak, self.live)

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, count = id(storage), storage.nbytes()
        if key not in self._known:
            self._known[key] = weakref.ref(storage, lambda _: self._forget(key, count))
            self.add(count)

    def _forget(self, key: int, count: int) -> None:
        del self._known[key]
        self.live -= count


def _formula(func: Any) -> Callable[..., int] | None:
    packet = func.overloadpacket
    found: Callable[..., int] | None = flop_registry.get(_ALIKE.get(packet, packet))
    return found
