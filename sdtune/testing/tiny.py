"""Stable Diffusion models with random weights: tiny ones for tests, a full-width one for benchmarks; no download."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sdtune.models import libraries
from sdtune.models.storage import to_webui
from sdtune.models.vocabulary import END, START, byte_symbols, number_tokens
from sdtune.randomness import derive_generator

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from sdtune.models.base import Part

_TEXT = """
    a an the of in on at and with photo picture painting drawing sketch style art by zwx sks toy dog cat bird red green
    blue yellow black white orange purple pink brown grey gold circle square triangle star heart house tree flower car
    boat mountain river sea sky sun moon cloud night day small big left right top bottom old new soft bright dark best
    quality person man woman child face eye hat teapot backpack vase
"""
WORDS = tuple(_TEXT.split())
SPECIALS = {"unk_token": END, "bos_token": START, "eos_token": END, "pad_token": END}


def tiny_sd1(
    path: Path,
    *,
    seed: int = 0,
    text_layers: int = 2,
    block_out_channels: Sequence[int] = (32, 32, 64, 64),
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a tiny SD1 with random weights, and give back its path.

    Args:
        path: With the suffix `.safetensors` a webui single file, and its tokenizer beside it in `tokenizer/`; else a
            diffusers folder.
        seed: The same seed gives the same weights in both layouts.
        text_layers: Layers of the text encoder; SD1 has 12.
        block_out_channels: Widths of the UNet's levels, multiples of 32.
        dtype: Float dtype of the file; None: float32.
    """
    parts = tiny_parts(seed=seed, text_layers=text_layers, block_out_channels=block_out_channels)
    if dtype is not None:
        parts = {part: module.to(dtype) for part, module in parts.items()}
    if path.suffix == ".safetensors":
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tokenizer(path.parent / "tokenizer")
        write_single_file(path, parts)
    else:
        write_tokenizer(path / "tokenizer")
        write_folder(path, parts)
    return path


def tiny_parts(
    *, seed: int = 0, text_layers: int = 2, block_out_channels: Sequence[int] = (32, 32, 64, 64)
) -> dict[Part, nn.Module]:
    """Build the modules of a tiny SD1: the topology of SD1.5, float32, random weights."""
    import torch

    parts = _empty_parts(
        unet={"block_out_channels": tuple(block_out_channels), "cross_attention_dim": 64},
        vae={"block_out_channels": (32, 32, 64, 64)},
        text={
            "vocab_size": len(number_tokens(word_merges(WORDS))),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": text_layers,
            "num_attention_heads": 1,
        },
    )
    for part, module in parts.items():
        module.to_empty(device="cpu")
        for name, tensor in module.state_dict(keep_vars=True).items():
            with torch.no_grad():
                tensor.copy_(_random_weight(name, tuple(tensor.shape), seed, part))
        for name, buffer in module.named_buffers():
            if name.endswith("position_ids"):
                buffer.copy_(torch.arange(buffer.shape[-1]).expand((1, -1)))
    return parts


def full_sd1(path: Path, dtype: torch.dtype, seed: int = 0) -> Path:
    """Write SD1.5 at full width (1.07 billion parameters) with random weights as a webui single file.

    Weights are scaled by their fan-in, so that activations stay finite and answers vary. The tokenizer, 49,408 tokens
    made up in code, is written beside it in `tokenizer/`. One tensor is in memory at a time.
    """
    parts = _empty_parts(
        unet={"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768},
        vae={"block_out_channels": (128, 256, 512, 512)},
        text={
            "vocab_size": 49408,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = {name: tuple(tensor.shape) for name, tensor in _webui_tensors(parts)}
    write_tokenizer(path.parent / "tokenizer", size=49408)
    with path.open("wb") as file:
        file.write(_header(shapes, dtype))
        for name, shape in shapes.items():
            file.write(_bytes_of(_random_weight(name, shape, seed, "full").to(dtype)))
    return path


def write_single_file(path: Path, parts: Mapping[Part, nn.Module]) -> None:
    """Write parts as a webui single file."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in _webui_tensors(parts)}, path)


def write_folder(path: Path, parts: Mapping[Part, Any]) -> None:
    """Write parts as a diffusers folder, without a tokenizer."""
    from safetensors.torch import save_file

    from sdtune.models.naming import text_name

    for part, module in parts.items():
        (path / part).mkdir(parents=True, exist_ok=True)
        is_text = part == "text_encoder"
        state = {text_name(name) if is_text else name: tensor for name, tensor in module.state_dict().items()}
        save_file(state, path / part / f"{'model' if is_text else 'diffusion_pytorch_model'}.safetensors")
        (module.config.save_pretrained if is_text else module.save_config)(path / part)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    scheduler = {
        "_class_name": "DDIMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    (path / "scheduler").mkdir(parents=True, exist_ok=True)
    _write_json(path / "scheduler" / "scheduler_config.json", scheduler)
    _write_json(path / "model_index.json", index)


def write_tokenizer(folder: Path, *, words: Sequence[str] = WORDS, size: int | None = None) -> Path:
    """Write a tokenizer in CLIP's format that has a token for each word; `size` fills the vocabulary up."""
    merges = word_merges(words)
    if size is not None:
        merges += _filling(size - len(number_tokens(merges)))
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "vocab.json", number_tokens(merges))
    text = "".join(f"{left} {right}\n" for left, right in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{text}", encoding="utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **SPECIALS}
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


def _empty_parts(*, unet: dict[str, Any], vae: dict[str, Any], text: dict[str, Any]) -> dict[Part, Any]:
    """Build the modules on the meta device, SD1's topology."""
    import torch

    text_model, text_config = libraries.text_classes()
    with torch.device("meta"):
        return {
            "unet": libraries.unet_class()(**unet),
            "vae": libraries.vae_class()(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                **vae,
            ),
            "text_encoder": text_model(
                text_config(**text, bos_token_id=text["vocab_size"] - 2, eos_token_id=text["vocab_size"] - 1)
            ),
        }


def _webui_tensors(parts: Mapping[Part, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    from sdtune.models.naming import is_vae_attention, text_name

    for part, module in parts.items():
        state = {text_name(n) if part == "text_encoder" else n: t for n, t in module.state_dict().items()}
        renamed = to_webui(part, list(state))
        for name, tensor in state.items():
            is_conv = part == "vae" and is_vae_attention(name)
            yield renamed[name], tensor.reshape(*tensor.shape, 1, 1) if is_conv else tensor


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
