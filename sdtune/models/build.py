"""Modules from stored weights: built without memory, then given their tensors one by one, each in its final dtype."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from sdtune.errors import ModelError
from sdtune.models import architecture, libraries, naming
from sdtune.models.quantize import QuantizedLinear, is_quantizable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sdtune.config.model import Quantization
    from sdtune.models.architecture import SDFamily
    from sdtune.models.base import Component
    from sdtune.models.storage import StoredPart

_SHOWN = 3
_READERS, _AHEAD = 2, 4


def build_part(
    stored: StoredPart,
    family: SDFamily,
    *,
    dtype: torch.dtype,
    device: torch.device,
    quantize: Quantization | None = None,
) -> nn.Module:
    """Load a part: frozen, in eval mode. Peak memory is the part in its final form, and a few tensors as stored.

    Raises:
        ModelError: Tensors are missing, too many, or of other shapes than the architecture asks for.
    """
    module = build_empty(stored, family)
    fill(module, stored, dtype=dtype, device=device, quantize=quantize)
    return module.requires_grad_(False).eval()


def build_hollow(stored: StoredPart, family: SDFamily, *, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Build a part as `build_part` does, with tensors that hold no values; in a mode of fake tensors it costs nothing.

    Raises:
        ModelError: See `build_part`.
    """
    module = build_empty(stored, family)
    _check(stored, _canonical_parameters(module, stored))
    for name, parameter in list(module.named_parameters()):
        _set(module, name, torch.empty(parameter.shape, dtype=dtype, device=device))
    _restore_position_ids(module, device)
    return module.requires_grad_(False).eval()


def build_empty(stored: StoredPart, family: SDFamily) -> nn.Module:
    """Build a part's module on the meta device, from its configuration, or else from its shapes.

    Raises:
        ModelError: The architecture cannot be told, or is not a Stable Diffusion one.
    """
    config = {key: value for key, value in stored.config.items() if not key.startswith("_")}
    try:
        config = config or _derive_config(stored, family)
        with torch.device("meta"):
            return construct(stored.component, config, family)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise ModelError(
            f"the {stored.component} in {stored.file.path.name} is not one of {family.name}: {error}",
            where=str(stored.file.path),
        ) from error


def _derive_config(stored: StoredPart, family: SDFamily) -> dict[str, Any]:
    if stored.component == "unet":
        return architecture.unet_config(stored.shapes, family)
    if stored.component == "vae":
        return architecture.vae_config(stored.shapes, family)
    return architecture.text_config(stored.shapes, family.text(stored.component))


def construct(component: Component, config: Mapping[str, Any], family: SDFamily) -> nn.Module:
    """Build the module of diffusers or transformers for a configuration, on the current device."""
    if component == "unet":
        return cast("nn.Module", libraries.unet_class().from_config(dict(config)))
    if component == "vae":
        return cast("nn.Module", libraries.vae_class().from_config(dict(config)))
    model, configuration = libraries.text_classes()
    if family.text(component).is_pooled:
        model = libraries.projecting_text_class()
    return cast("nn.Module", model(configuration.from_dict(dict(config))))


def module_prefix(module: nn.Module, component: str) -> str:
    """Tell what stands before a canonical name's beginning in the module of this transformers version.

    Give `text_model.` if canonical names of the text encoder have it and the module's own have not, else "".
    """
    is_inside = any(name == "text_model" for name, _ in module.named_children())
    return "text_model." if component.startswith("text_encoder") and not is_inside else ""


def fill(
    module: nn.Module,
    stored: StoredPart,
    *,
    dtype: torch.dtype,
    device: torch.device,
    quantize: Quantization | None = None,
) -> None:
    """Give each parameter of a meta module its stored tensor; `quantize` puts packed layers into linear ones' place.

    Raises:
        ModelError: See `build_part`.
    """
    prefix = module_prefix(module, stored.component)
    parameters = _canonical_parameters(module, stored)
    _check(stored, parameters)
    tensors = _read_ahead(partial(stored.read, dtype=dtype), parameters)
    for (name, parameter), tensor in zip(parameters.items(), tensors, strict=True):
        owner, _, leaf = name.removeprefix(prefix).rpartition(".")
        layer, value = module.get_submodule(owner), tensor.reshape(parameter.shape).to(device)
        if quantize is not None and leaf == "weight" and isinstance(layer, nn.Linear) and is_quantizable(owner):
            packed = QuantizedLinear(layer, value, quantize, partial(stored.read, name))
            module.set_submodule(owner, packed, strict=True)
        else:
            setattr(layer, leaf, nn.Parameter(value, requires_grad=False))
    _restore_position_ids(module, device)


def _read_ahead(read: Callable[[str], torch.Tensor], names: Iterable[str]) -> Iterator[torch.Tensor]:
    """Read tensors in two threads, in order: reading is mostly the system's work, and lets go of Python's lock.

    No more than a few wait, however long each takes to be packed, or to reach a GPU that is only just waking.
    """
    with ThreadPoolExecutor(_READERS) as readers:
        waiting: deque[Future[torch.Tensor]] = deque()
        try:
            for name in names:
                waiting.append(readers.submit(read, name))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _canonical_parameters(module: nn.Module, stored: StoredPart) -> dict[str, nn.Parameter]:
    prefix = module_prefix(module, stored.component)
    return {prefix + name: parameter for name, parameter in module.named_parameters()}


def _set(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))


def _restore_position_ids(module: nn.Module, device: torch.device) -> None:
    """Compute the one buffer that no file holds: it was built on the meta device too."""
    for name, buffer in list(module.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        if leaf != "position_ids":
            raise ModelError(f"this version of transformers or diffusers has a buffer sdtune does not know: {name}")
        ids = torch.arange(buffer.shape[-1], device=device).expand((1, -1))
        module.get_submodule(owner).register_buffer(leaf, ids, persistent=False)


def _check(stored: StoredPart, parameters: Mapping[str, torch.Tensor]) -> None:
    shapes = stored.shapes
    missing = [name for name in parameters if name not in shapes]
    unknown = [name for name in shapes if name not in parameters]
    wrong = [
        f"{name} {list(shapes[name])} instead of {list(parameter.shape)}"
        for name, parameter in parameters.items()
        if name in shapes and not _fits(stored.component, name, shapes[name], tuple(parameter.shape))
    ]
    if missing or unknown or wrong:
        found = {"missing": missing, "not known": unknown, "of another shape": wrong}
        text = "; ".join(f"{len(names)} {what} ({_some(names)})" for what, names in found.items() if names)
        raise ModelError(
            f"the {stored.component} in {stored.file.path.name} does not fit: {text}",
            where=str(stored.file.path),
            hint="the file is damaged, or of another family (model.family)",
        )


def _fits(component: str, name: str, stored: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if component == "vae" and naming.is_vae_attention(name) and stored[2:] == (1, 1):
        return stored[:2] == wanted
    return stored == wanted


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
