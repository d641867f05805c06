"""Stable Diffusion models with random weights: tiny ones for tests, a full-width one for benchmarks; no download."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sdtune.models.architecture import FAMILIES
from sdtune.models.naming import WEBUI_PREFIX
from sdtune.models.storage import to_webui
from sdtune.models.tokenizer import OPENCLIP_PAD
from sdtune.models.vocabulary import END, START, byte_symbols, number_tokens
from sdtune.randomness import derive_generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from sdtune.models.architecture import SDFamily
    from sdtune.models.base import Component

_TEXT = """
    a an the of in on at and with photo picture painting drawing sketch style art by zwx sks toy dog cat bird red green
    blue yellow black white orange purple pink brown grey gold circle square triangle star heart house tree flower car
    boat mountain river sea sky sun moon cloud night day small big left right top bottom old new soft bright dark best
    quality person man woman child face eye hat teapot backpack vase
"""
WORDS = tuple(_TEXT.split())
SPECIALS = {"unk_token": END, "bos_token": START, "eos_token": END, "pad_token": END}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The numbers that make a model small or large.

    Attributes:
        unet: Widths of the UNet's levels; multiples of 32 in SD1, of 64 elsewhere.
        depths: Transformer blocks at each level; 0: no attention.
        vae: Widths of the VAE's levels, multiples of 32.
        texts: Width, MLP width and computed layers of each text encoder.
        vocabulary: Tokens.
    """

    unet: tuple[int, ...]
    depths: tuple[int, ...]
    vae: tuple[int, ...]
    texts: tuple[tuple[int, int, int], ...]
    vocabulary: int


_DEPTHS: Mapping[str, tuple[int, ...]] = {"sd1": (1, 1, 1, 0), "sd2": (1, 1, 1, 0), "sdxl": (0, 2, 10)}
# Each level of SDXL's UNet is of its own kind here too, in a third of the time; for `depths`, by family.
SHALLOW: Mapping[str, tuple[int, ...]] = {"sdxl": (0, 1, 2)}
_TINY_WIDTHS: Mapping[str, tuple[int, ...]] = {
    "sd1": (32, 32, 64, 64),
    "sd2": (64, 64, 64, 64),
    "sdxl": (64, 64, 64),
}
_FULL_TEXTS: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "sd1": ((768, 3072, 12),),
    "sd2": ((1024, 4096, 23),),
    "sdxl": ((768, 3072, 12), (1280, 5120, 32)),
}
_SIZE_NUMBERS, _SIZE_WIDTH = 6, 256  # SDXL's embedding of a picture's size and crop


def tiny_sd1(
    path: Path,
    *,
    seed: int = 0,
    text_layers: int = 2,
    block_out_channels: Sequence[int] = _TINY_WIDTHS["sd1"],
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a tiny SD1 with random weights, and give back its path; see `tiny_model`."""
    return tiny_model(path, "sd1", seed=seed, text_layers=text_layers, widths=block_out_channels, dtype=dtype)


def tiny_sd2(path: Path, *, seed: int = 0, text_layers: int = 2, dtype: torch.dtype | None = None) -> Path:
    """Write a tiny SD2 with random weights, and give back its path; see `tiny_model`."""
    return tiny_model(path, "sd2", seed=seed, text_layers=text_layers, dtype=dtype)


def tiny_sdxl(
    path: Path,
    *,
    seed: int = 0,
    text_layers: int = 2,
    depths: Sequence[int] = _DEPTHS["sdxl"],
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a tiny SDXL with random weights, and give back its path; see `tiny_model`."""
    return tiny_model(path, "sdxl", seed=seed, text_layers=text_layers, depths=depths, dtype=dtype)


def tiny_model(
    path: Path,
    family: str,
    *,
    seed: int = 0,
    text_layers: int = 2,
    widths: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a tiny model with random weights and the topology of its family.

    Args:
        path: With the suffix `.safetensors` a webui single file, and its tokenizer beside it in `tokenizer/`; else a
            diffusers folder.
        family: `sd1`, `sd2` or `sdxl`.
        seed: The same seed gives the same weights in both layouts.
        text_layers: Layers of each text encoder that are computed; a single file of SD2 holds one more.
        widths: See `Sizes.unet`.
        depths: See `Sizes.depths`.
        dtype: Float dtype of the file; None: float32.
    """
    components = tiny_components(family, seed=seed, text_layers=text_layers, widths=widths, depths=depths)
    if dtype is not None:
        components = {name: module.to(dtype) for name, module in components.items()}
    if path.suffix == ".safetensors":
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tokenizer(path.parent / "tokenizer")
        write_single_file(path, components, family)
    else:
        write_folder(path, components, family)
    return path


def tiny_components(
    family: str,
    *,
    seed: int = 0,
    text_layers: int = 2,
    widths: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
) -> dict[Component, nn.Module]:
    """Build the modules of a tiny model: float32, random weights; see `tiny_model`."""
    import torch

    sizes = Sizes(
        unet=tuple(widths or _TINY_WIDTHS[family]),
        depths=tuple(depths or _DEPTHS[family]),
        vae=(32, 32, 64, 64),
        texts=((64, 128, text_layers),) * len(_FULL_TEXTS[family]),
        vocabulary=len(number_tokens(word_merges(WORDS))),
    )
    components = _empty_components(family, sizes)
    for component, module in components.items():
        module.to_empty(device="cpu")
        for name, tensor in module.state_dict(keep_vars=True).items():
            with torch.no_grad():
                tensor.copy_(_random_weight(name, tuple(tensor.shape), seed, component))
        for name, buffer in module.named_buffers():
            if name.endswith("position_ids"):
                buffer.copy_(torch.arange(buffer.shape[-1]).expand((1, -1)))
    return components


def full_model(path: Path, family: str, dtype: torch.dtype, *, seed: int = 0, is_sparse: bool = False) -> Path:
    """Write a model at full width with random weights as a webui single file: SD1.5, SD2.1 or SDXL base.

    Weights are scaled by their fan-in, so that activations stay finite and answers vary. The tokenizer, 49,408 tokens
    made up in code, is written beside it in `tokenizer/`. One tensor is in memory at a time.

    Args:
        path: The file; 2 to 7 GB in half precision.
        family: `sd1`, `sd2` or `sdxl`.
        dtype: Float dtype of the file.
        seed: The same seed gives the same weights.
        is_sparse: All weights are zero, and take no room on the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = {
        name: tuple(tensor.shape) for name, tensor in _webui_tensors(_empty_components(family, _full(family)), family)
    }
    write_tokenizer(path.parent / "tokenizer", size=_full(family).vocabulary)
    header = _header(shapes, dtype)
    with path.open("wb") as file:
        file.write(header)
        if is_sparse:
            file.truncate(len(header) + sum(map(math.prod, shapes.values())) * dtype.itemsize)
            return path
        for name, shape in shapes.items():
            file.write(_bytes_of(_random_weight(name, shape, seed, "full").to(dtype)))
    return path


def _full(family: str) -> Sizes:
    return Sizes(
        unet=(320, 640, 1280) if family == "sdxl" else (320, 640, 1280, 1280),
        depths=_DEPTHS[family],
        vae=(128, 256, 512, 512),
        texts=_FULL_TEXTS[family],
        vocabulary=49408,
    )


def write_single_file(path: Path, components: Mapping[Component, nn.Module], family: str = "sd1") -> None:
    """Write components as a webui single file."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in _webui_tensors(components, family)}, path)


def write_folder(path: Path, components: Mapping[Component, Any], family: str = "sd1") -> None:
    """Write components as a diffusers folder, with a tokenizer for each text encoder."""
    from safetensors.torch import save_file

    from sdtune.models.snapshot import pipeline_files, tokenizer_folder

    known = FAMILIES[family]
    for component, module in components.items():
        (path / component).mkdir(parents=True, exist_ok=True)
        is_text = component not in WEBUI_PREFIX
        stem = "model" if is_text else "diffusion_pytorch_model"
        save_file(dict(_canonical(component, module)), path / component / f"{stem}.safetensors")
        (module.config.save_pretrained if is_text else module.save_config)(path / component)
    for text in known.texts:
        write_tokenizer(path / tokenizer_folder(text.component), pad=END if text.pads_with_end else OPENCLIP_PAD)
    for name, content in pipeline_files(known, {}, known.prediction).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def write_tokenizer(folder: Path, *, words: Sequence[str] = WORDS, size: int | None = None, pad: str = END) -> Path:
    """Write a tokenizer in CLIP's format that has a token for each word; `size` fills the vocabulary up."""
    merges = word_merges(words)
    if size is not None:
        merges += _filling(size - len(number_tokens(merges)))
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "vocab.json", number_tokens(merges))
    text = "".join(f"{left} {right}\n" for left, right in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{text}", encoding="utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **SPECIALS, "pad_token": pad}
    _write_json(folder / "tokenizer_config.json", config)
    return folder


def word_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Learn byte pairs (Sennrich et al. 2016, algorithm 1) until each word is one token."""
    split = {word: (*word[:-1], f"{word[-1]}</w>") for word in words}
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for symbols in split.values() for pair in pairwise(symbols)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = {word: _merged(symbols, best) for word, symbols in split.items()}
    return merges


def _merged(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)


def _filling(count: int) -> list[tuple[str, str]]:
    """Give merges of bytes that no English text holds: pairs, then pairs with a third."""
    rare = byte_symbols()[94:]
    pairs = [(left, right) for left in rare for right in rare]
    triples = [(left + right, third) for left, right in pairs for third in rare[:2]]
    return [*pairs, *triples][:count]


def _empty_components(family: str, sizes: Sizes) -> dict[Component, Any]:
    """Build the modules on the meta device."""
    import torch

    from sdtune.models.build import construct

    known = FAMILIES[family]
    configs: dict[Component, dict[str, Any]] = {"unet": _unet_config(known, sizes), "vae": _vae_config(known, sizes)}
    for text, (width, mlp_width, layers) in zip(known.texts, sizes.texts, strict=True):
        configs[text.component] = {
            "vocab_size": sizes.vocabulary,
            "hidden_size": width,
            "intermediate_size": mlp_width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 64,
            "hidden_act": text.activation,
            "projection_dim": width,
            "bos_token_id": sizes.vocabulary - 2,
            "eos_token_id": sizes.vocabulary - 1,
        }
    with torch.device("meta"):
        return {component: construct(component, config, known) for component, config in configs.items()}


def _unet_config(family: SDFamily, sizes: Sizes) -> dict[str, Any]:
    types = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in sizes.depths]
    config: dict[str, Any] = {
        "block_out_channels": sizes.unet,
        "down_block_types": tuple(types),
        "up_block_types": tuple(name.replace("Down", "Up") for name in reversed(types)),
        "transformer_layers_per_block": tuple(max(1, depth) for depth in sizes.depths),
        "cross_attention_dim": sum(width for width, _, _ in sizes.texts),
        "attention_head_dim": family.unet_heads or tuple(width // 64 for width in sizes.unet),
        "use_linear_projection": family.unet_heads is None,
    }
    if any(text.is_pooled for text in family.texts):
        pooled = sizes.texts[-1][0]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": _SIZE_WIDTH,
            "projection_class_embeddings_input_dim": pooled + _SIZE_NUMBERS * _SIZE_WIDTH,
        }
    return config


def _vae_config(family: SDFamily, sizes: Sizes) -> dict[str, Any]:
    return {
        "block_out_channels": sizes.vae,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "scaling_factor": family.scaling_factor,
    }


def _webui_tensors(components: Mapping[Component, nn.Module], family: str) -> Iterator[tuple[str, Tensor]]:
    for component, module in components.items():
        yield from to_webui(component, dict(_canonical(component, module)), FAMILIES[family])


def _canonical(component: Component, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    from sdtune.models.build import module_prefix

    prefix = module_prefix(module, component)
    return ((prefix + name, tensor) for name, tensor in module.state_dict().items())


def _random_weight(name: str, shape: tuple[int, ...], seed: int, scope: str) -> Tensor:
    """Draw a weight: uniform within 1 / sqrt(fan-in); norms begin as identities, biases at zero."""
    import torch

    if len(shape) < 2:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    bound = math.prod(shape[1:]) ** -0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=derive_generator(seed, "weight", scope, name))


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


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
