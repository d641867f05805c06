"""Stable Diffusion models at full width, with random weights or with holes in their place; no download."""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any

from sdtune.models.tokenizer import tokenizer_files
from sdtune.models.vocabulary import SIZE
from sdtune.testing.tiny import (
    DEPTHS,
    Sizes,
    canonical_tensors,
    empty_components,
    random_weight,
    tokenizer_places,
    webui_tensors,
    weights_stem,
    write_configs,
    write_json,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor

    from sdtune.models.base import Component

_TEXTS: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "sd1": ((768, 3072, 12),),
    "sd2": ((1024, 4096, 23),),
    "sdxl": ((768, 3072, 12), (1280, 5120, 32)),
}


def full_model(
    path: Path, family: str, dtype: torch.dtype, *, seed: int = 0, is_sparse: bool = False, marks: Sequence[str] = ()
) -> Path:
    """Write a model at full width with random weights as a webui single file: SD1.5, SD2.1 or SDXL base.

    Weights are scaled by their fan-in, so that activations stay finite and answers vary. The tokenizer is CLIP's.
    One tensor is in memory at a time.

    Args:
        path: The file; 2 to 7 GB in half precision.
        family: `sd1`, `sd2` or `sdxl`.
        dtype: Float dtype of the file.
        seed: The same seed gives the same weights.
        is_sparse: All weights are zero, and take no room on the disk.
        marks: Names of empty tensors that stand at the end, e.g. `v_pred`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = {name: tuple(tensor.shape) for name, tensor in webui_tensors(full_components(family), family)}
    shapes |= dict.fromkeys(marks, (0,))
    if is_sparse:
        return _write_hole(path, shapes, dtype)
    with path.open("wb") as file:
        file.write(_header(shapes, dtype))
        for name, shape in shapes.items():
            file.write(_bytes_of(random_weight(name, shape, seed, "full").to(dtype)))
    return path


def full_checkpoint(path: Path, family: str, dtype: torch.dtype) -> Path:
    """Write a `.ckpt` at full width as a trainer does; weights are zero, and take no room on the disk."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    path.parent.mkdir(parents=True, exist_ok=True)
    with FakeTensorMode():
        weights = {
            name: torch.empty(tensor.shape, dtype=dtype)
            for name, tensor in webui_tensors(full_components(family), family)
        }
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save({"state_dict": weights, "global_step": 1}, path)
    return path


def full_folder(path: Path, family: str, *, shards: int = 2) -> Path:
    """Write a diffusers folder at full width in its float16 variant; weights are zero, and take no room on the disk.

    Args:
        path: The folder.
        family: `sd1`, `sd2` or `sdxl`.
        shards: Files that each part's weights are in; one: no index.
    """
    import torch

    components = full_components(family)
    write_configs(path, components, family)
    for folder, pad in tokenizer_places(family):
        (path / folder).mkdir()
        for name, content in tokenizer_files(None, pad).items():
            (path / folder / name).write_bytes(content)
    for component, module in components.items():
        stem = weights_stem(component)
        names = [f"{stem}.fp16-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
        names = names if shards > 1 else [f"{stem}.fp16.safetensors"]
        shapes = {name: tuple(tensor.shape) for name, tensor in canonical_tensors(component, module)}
        places = {name: names[place * shards // len(shapes)] for place, name in enumerate(shapes)}
        for own in names:
            part = {name: shape for name, shape in shapes.items() if places[name] == own}
            _write_hole(path / component / own, part, torch.float16)
        if shards > 1:
            index = {"metadata": {}, "weight_map": places}
            write_json(path / component / f"{stem}.safetensors.index.fp16.json", index)
    return path


def full_components(family: str) -> dict[Component, Any]:
    """Build the modules of a model at full width on the meta device, where they take no memory."""
    return empty_components(family, _full(family))


def _write_hole(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> Path:
    """Write a safetensors file whose weights are a hole."""
    header = _header(shapes, dtype)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(map(math.prod, shapes.values())) * dtype.itemsize)
    return path


def _full(family: str) -> Sizes:
    return Sizes(
        unet=(320, 640, 1280) if family == "sdxl" else (320, 640, 1280, 1280),
        depths=DEPTHS[family],
        vae=(128, 256, 512, 512),
        texts=_TEXTS[family],
        vocabulary=SIZE,
    )


def _header(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> bytes:
    names = {"torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}
    header, start = {}, 0
    for name, shape in shapes.items():
        end = start + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": names[str(dtype)], "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _bytes_of(tensor: Tensor) -> memoryview:
    import torch

    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data
