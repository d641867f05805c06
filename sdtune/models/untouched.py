"""The base model inside one that is trained: what is frozen there is the base, and need not be in memory twice.

A method may put anything into a model. Whether a part is still the base is seen from what it is, not from what a method
says: the modules that were loaded can be put back, nothing else is among them, and each weight is the one in the file.
"""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from weakref import ref

from sdtune.models.quantize import quantized_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import torch
    from torch import nn

    from sdtune.models.base import Component, DiffusionModel, Part
    from sdtune.models.storage import StoredPart
    from sdtune.models.words import Words

# libraries hook their own layers, to collect hidden states; sdtune's words do nothing while they are lifted
_HOOKING = frozenset({"diffusers", "sdtune", "transformers"})


class Loaded:
    """A component as it was loaded. Its modules are not kept alive.

    Attributes:
        stored: Where it was loaded from.
    """

    def __init__(self, root: nn.Module, stored: StoredPart) -> None:
        self.stored = stored
        self._modules = {name: ref(module) for name, module in root.named_modules()}

    @contextmanager
    def restored(self) -> Iterator[nn.Module | None]:
        """Put each module back in its place for as long as the context lasts; then what stood there stands there again.

        Yields:
            The component; None: some module is gone, and nothing was changed.
        """
        modules = {name: module for name, own in self._modules.items() if (module := own()) is not None}
        if len(modules) < len(self._modules):
            yield None
            return
        displaced = _place(modules)
        try:
            yield modules[""]
        finally:
            _place(modules)  # a library that was called meanwhile may have left something
            for owner, leaf, module in displaced:
                owner._modules[leaf] = module

    def is_untouched(self, root: nn.Module | None, dtype: torch.dtype) -> bool:
        """Tell whether a component is what loading it in `dtype` would give: nothing trained, added, packed, hooked."""
        if root is None:
            return False
        layers = dict(root.named_modules())
        if layers.keys() != self._modules.keys() or not all(_is_plain(layer) for layer in layers.values()):
            return False
        if any(quantized_layers(root)) or any(p.requires_grad or p.dtype != dtype for p in root.parameters()):
            return False
        return all(self._is_as_stored(name, parameter) for name, parameter in root.named_parameters())

    def _is_as_stored(self, name: str, held: nn.Parameter) -> bool:
        names = (name, f"text_model.{name}")  # see `build.module_prefix`
        found = next((name for name in names if name in self.stored.entries), None)
        if found is None:
            return False
        return self.stored.read(found, held.dtype).reshape(held.shape).to(held.device).equal(held)


@contextmanager
def lending(
    parts: Mapping[Part, Sequence[Component]],
    loaded: Mapping[Component, Loaded],
    borrower: DiffusionModel,
    words: Iterable[Words],
) -> Iterator[None]:
    """See `DiffusionModel.lend`.

    Args:
        parts: Loaded parts, and their components.
        loaded: Each of these.
        borrower: Gets those that are untouched.
        words: Words that are set in the lending model.
    """
    lent: list[Component] = []
    with ExitStack() as stack:
        for own in words:
            stack.enter_context(own.lifted())
        for part, components in parts.items():
            roots = {own: stack.enter_context(loaded[own].restored()) for own in components}
            if all(loaded[own].is_untouched(root, borrower.dtype_of(part)) for own, root in roots.items()):
                for component, root in roots.items():
                    borrower.add_module(component, root)
                    lent.append(component)
        try:
            yield
        finally:
            for component in lent:
                delattr(borrower, component)


def _place(modules: Mapping[str, nn.Module]) -> list[tuple[nn.Module, str, nn.Module | None]]:
    """Put modules in their places, parents first; give what stood there, with its owner and its name."""
    displaced = []
    for name, module in modules.items():
        path, _, leaf = name.rpartition(".")
        if leaf and (present := modules[path]._modules.get(leaf)) is not module:
            modules[path]._modules[leaf] = module
            displaced.append((modules[path], leaf, present))
    return displaced


def _is_plain(layer: nn.Module) -> bool:
    """Tell whether a layer computes what its class says."""
    hooks = (*layer._forward_pre_hooks.values(), *layer._forward_hooks.values())
    return "forward" not in vars(layer) and all(_origin(hook) in _HOOKING for hook in hooks)


def _origin(hook: Callable[..., object]) -> str:
    found = inspect.getmodule(hook)
    return "" if found is None else found.__name__.partition(".")[0]
