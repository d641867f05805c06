"""Tiny Stable Diffusion models with random weights; no download."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sdtune.models.architecture import FAMILIES
from sdtune.models.naming import WEBUI_PREFIX
from sdtune.models.storage import to_webui
from sdtune.models.tokenizer import OPENCLIP_PAD
from sdtune.models.vocabulary import END, START, number_tokens
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


DEPTHS: Mapping[str, tuple[int, ...]] = {"sd1": (1, 1, 1, 0), "sd2": (1, 1, 1, 0), "sdxl": (0, 2, 10)}
# Each level of SDXL's UNet is of its own kind here too, in a third of the time; for `depths`, by family.
SHALLOW: Mapping[str, tuple[int, ...]] = {"sdxl": (0, 1, 2)}
_TINY_WIDTHS: Mapping[str, tuple[int, ...]] = {
    "sd1": (32, 32, 64, 64),
    "sd2": (64, 64, 64, 64),
    "sdxl": (64, 64, 64),
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
    depths: Sequence[int] = DEPTHS["sdxl"],
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
        depths=tuple(depths or DEPTHS[family]),
        vae=(32, 32, 64, 64),
        texts=((64, 128, text_layers),) * len(FAMILIES[family].texts),
        vocabulary=len(number_tokens(word_merges(WORDS))),
    )
    components = empty_components(family, sizes)
    for component, module in components.items():
        module.to_empty(device="cpu")
        for name, tensor in module.state_dict(keep_vars=True).items():
            with torch.no_grad():
                tensor.copy_(random_weight(name, tuple(tensor.shape), seed, component))
        for name, buffer in module.named_buffers():
            if name.endswith("position_ids"):
                buffer.copy_(torch.arange(buffer.shape[-1]).expand((1, -1)))
    return components


def write_single_file(path: Path, components: Mapping[Component, nn.Module], family: str = "sd1") -> None:
    """Write components as a webui single file."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in webui_tensors(components, family)}, path)


def write_folder(path: Path, components: Mapping[Component, Any], family: str = "sd1") -> None:
    """Write components as a diffusers folder, with a tokenizer for each text encoder."""
    from safetensors.torch import save_file

    write_configs(path, components, family)
    for folder, pad in tokenizer_places(family):
        write_tokenizer(path / folder, pad=pad)
    for component, module in components.items():
        file = path / component / f"{weights_stem(component)}.safetensors"
        save_file(dict(canonical_tensors(component, module)), file)


def write_configs(path: Path, components: Mapping[Component, Any], family: str = "sd1") -> None:
    """Write everything of a diffusers folder but the weights and the tokenizers."""
    from sdtune.models.snapshot import pipeline_files

    known = FAMILIES[family]
    for component, module in components.items():
        (path / component).mkdir(parents=True, exist_ok=True)
        save = module.save_config if component in WEBUI_PREFIX else module.config.save_pretrained
        save(path / component)
    for name, content in pipeline_files(known, {}, known.prediction).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def tokenizer_places(family: str) -> list[tuple[str, str]]:
    """List the folders of a diffusers folder's tokenizers, each with the token that fills captions up."""
    from sdtune.models.snapshot import tokenizer_folder

    texts = FAMILIES[family].texts
    return [(tokenizer_folder(text.component), END if text.pads_with_end else OPENCLIP_PAD) for text in texts]


def weights_stem(component: Component) -> str:
    """Name the weights of a folder's part, without suffix."""
    return "diffusion_pytorch_model" if component in WEBUI_PREFIX else "model"


def write_tokenizer(folder: Path, *, words: Sequence[str] = WORDS, pad: str = END) -> Path:
    """Write a tokenizer in CLIP's format that has a token for each word."""
    merges = word_merges(words)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "vocab.json", number_tokens(merges))
    text = "".join(f"{left} {right}\n" for left, right in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{text}", encoding="utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **SPECIALS, "pad_token": pad}
    write_json(folder / "tokenizer_config.json", config)
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


def empty_components(family: str, sizes: Sizes) -> dict[Component, Any]:
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


def webui_tensors(components: Mapping[Component, nn.Module], family: str) -> Iterator[tuple[str, Tensor]]:
    """Give all tensors by their names in a single file."""
    for component, module in components.items():
        yield from to_webui(component, dict(canonical_tensors(component, module)), FAMILIES[family])


def canonical_tensors(component: Component, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Give a component's tensors by their names in a folder."""
    from sdtune.models.build import module_prefix

    prefix = module_prefix(module, component)
    return ((prefix + name, tensor) for name, tensor in module.state_dict().items())


def random_weight(name: str, shape: tuple[int, ...], seed: int, scope: str) -> Tensor:
    """Draw a weight: uniform within 1 / sqrt(fan-in); norms begin as identities, biases at zero."""
    import torch

    if len(shape) < 2:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    bound = math.prod(shape[1:]) ** -0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=derive_generator(seed, "weight", scope, name))


def write_json(path: Path, content: object) -> None:
    """Write a small file that people may read."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
