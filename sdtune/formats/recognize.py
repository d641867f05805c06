"""What a file is: kind, family and dialect, told by names, shapes and metadata, before anything large is read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sdtune.formats import families
from sdtune.formats.adapters import common_algorithms, common_dialect, split_modules
from sdtune.formats.contents import Contents, open_contents
from sdtune.formats.facts import FileFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from sdtune.formats.facts import Family

    Shapes = Mapping[str, tuple[int, ...]]

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIXES = ("cond_stage_model.", "conditioner.embedders.")
_TEXT_WORDS = (
    "text_model.", "transformer.text_model.", "text_encoder.text_model.", "transformer.resblocks.", "encoder.layers.0.",
)  # fmt: skip
_CONTROL = ("control_model.", "controlnet_cond_embedding.", "input_hint_block.", "zero_convs.")


def recognize(path: Path) -> FileFacts:
    """Tell what a file or folder is.

    Of a safetensors file the header is read, and nothing more; a pickled file is read as plain data.

    Raises:
        ModelError: It is missing, damaged, unsafe to open, or no such file.
    """
    return recognize_contents(open_contents(path))


def recognize_contents(contents: Contents) -> FileFacts:
    """Tell what opened contents are."""
    for tell in _TELLERS:
        if facts := tell(contents):
            return facts
    return FileFacts(contents=contents, kind="unknown", family=None, family_reason="it is of no known kind")


def _as_folder(contents: Contents) -> FileFacts | None:
    if contents.form != "folder":
        return None
    shapes = {name: tensor.shape for name, tensor in contents.tensors.items()}
    unet = without_prefix(shapes, "unet/")
    if unet:
        family, reason = families.family_of_unet(unet)
        return FileFacts(contents=contents, kind="diffusers_folder", family=family, family_reason=reason)
    return None


def _as_adapter(contents: Contents) -> FileFacts | None:
    modules, _ = split_modules(contents.tensors)
    if not modules:
        return None
    family, reason = families.family_of_adapter(modules, contents.metadata)
    algorithms = common_algorithms(modules)
    return FileFacts(
        contents=contents,
        kind="lora" if algorithms == ("lora",) else "lycoris",
        family=family,
        family_reason=reason,
        dialect=common_dialect(modules),
        algorithms=algorithms,
    )


def _as_network(contents: Contents) -> FileFacts | None:
    sizes = network_sizes(contents.plain)
    if not sizes:
        return None
    family, reason = families.family_of_sizes(sizes)
    return FileFacts(contents=contents, kind="hypernetwork", family=family, family_reason=reason)


def _as_embedding(contents: Contents) -> FileFacts | None:
    widths = embedding_widths(contents)
    if not widths:
        return None
    family, reason = families.family_of_vectors(list(widths.values()), contents.metadata)
    return FileFacts(contents=contents, kind="embedding", family=family, family_reason=reason)


def _as_model(contents: Contents) -> FileFacts | None:
    shapes = {name: tensor.shape for name, tensor in contents.tensors.items()}
    if any(name.startswith(_CONTROL) for name in shapes):
        return _as_control(contents, shapes)
    unet = without_prefix(shapes, UNET_PREFIX) or (shapes if is_unet(shapes) else {})
    if is_unet(unet):
        family, reason = families.family_of_unet(unet)
        others = any(name.startswith((VAE_PREFIX, *TEXT_PREFIXES)) for name in shapes)
        return FileFacts(
            contents=contents, kind="checkpoint" if others else "unet", family=family, family_reason=reason
        )
    return None


def _as_control(contents: Contents, shapes: Shapes) -> FileFacts:
    inner = without_prefix(shapes, "control_model.") or shapes
    family, reason = families.family_of_unet(inner)
    return FileFacts(contents=contents, kind="controlnet", family=family, family_reason=reason)


def _as_part(contents: Contents) -> FileFacts | None:
    names = contents.tensors
    if any(name.startswith(TEXT_PREFIXES) for name in names) and not any(n.startswith(VAE_PREFIX) for n in names):
        return _as_text(contents)
    if any(name.removeprefix(VAE_PREFIX).startswith(("encoder.conv_in.", "decoder.conv_in.")) for name in names):
        reason = "the VAEs of SD1, SD2 and SDXL have the same form"
        return FileFacts(contents=contents, kind="vae", family=None, family_reason=reason)
    return _as_text(contents) if any(name.startswith(_TEXT_WORDS) for name in names) else None


def _as_text(contents: Contents) -> FileFacts:
    widths = {
        tensor.shape[-1]
        for name, tensor in contents.tensors.items()
        if name.endswith(("token_embedding.weight", "token_embedding")) and len(tensor.shape) == 2
    }
    found: dict[frozenset[int], tuple[Family | None, str]] = {
        frozenset({768}): (None, "a text encoder 768 wide is SD1's, and the first of SDXL"),
        frozenset({1024}): ("sd2", "the text encoder is 1024 wide"),
        frozenset({1280}): ("sdxl", "the text encoder is 1280 wide"),
        frozenset({768, 1280}): ("sdxl", "its text encoders are 768 and 1280 wide"),
    }
    family, reason = found.get(frozenset(widths), (None, f"its text encoder is {_join(widths)} wide, as no family's"))
    return FileFacts(contents=contents, kind="text_encoder", family=family, family_reason=reason)


_TELLERS: tuple[Callable[[Contents], FileFacts | None], ...] = (
    _as_folder,
    _as_adapter,
    _as_network,
    _as_embedding,
    _as_model,
    _as_part,
)


def without_prefix(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    """Keep what begins with a prefix, without it."""
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def is_unet(shapes: Shapes) -> bool:
    """Tell whether names (no prefix) are a UNet's, ldm's or diffusers'."""
    return "input_blocks.0.0.weight" in shapes or (
        "conv_in.weight" in shapes and "time_embedding.linear_1.weight" in shapes
    )


def network_sizes(plain: Any) -> list[int]:
    """List the widths of webui's hypernetwork: integer keys that hold a pair."""
    if not isinstance(plain, dict):
        return []
    return [
        key for key, value in plain.items() if type(key) is int and isinstance(value, tuple | list) and len(value) == 2
    ]


def embedding_widths(contents: Contents) -> dict[str, int]:
    """Give the text encoders an embedding is for, as webui names them, and its widths; empty when it is none."""
    shapes = {name: tensor.shape for name, tensor in contents.tensors.items()}
    if isinstance(contents.plain, dict) and isinstance(contents.plain.get("string_to_param"), dict):
        shapes = without_prefix(shapes, "string_to_param.")
    pair = {name: shapes[name][-1] for name in ("clip_l", "clip_g") if len(shapes.get(name, ())) in (1, 2)}
    if pair and len(pair) == len(shapes):
        return pair
    vectors = [shape for shape in shapes.values() if len(shape) in (1, 2)]
    is_one = len(shapes) == 1 and len(vectors) == 1 and _names_a_word(next(iter(shapes)))
    return {"clip_l": vectors[0][-1]} if is_one else {}


def _names_a_word(name: str) -> bool:
    return not re.search(r"\.(?:weight|bias)$", name)


def _join(widths: set[int]) -> str:
    return " and ".join(str(width) for width in sorted(widths)) or "?"
