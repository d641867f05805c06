"""A LoRA from one dialect to another: the change of every weight stays the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from sdtune.errors import ConfigError, ModelError
from sdtune.formats import hcp, kohya, peft
from sdtune.formats.casting import cast_all
from sdtune.formats.layers import read_layers
from sdtune.formats.outputs import Conversion, TensorsOutput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from sdtune.formats.facts import Dialect, Family, FileFacts
    from sdtune.formats.low_rank import LowRank
    from sdtune.formats.outputs import Form, Precision, Request

TITLES: Mapping[Dialect, str] = {
    "kohya": "webui (kohya)",
    "diffusers": "diffusers",
    "diffusers_old": "diffusers (old names)",
    "hcp": "HCP-Diffusion",
}
_DIALECTS: Mapping[Form, Dialect] = {"webui": "kohya", "kohya": "kohya", "diffusers": "diffusers", "hcp": "hcp"}
_ALPHA = (".alpha",)
_DROPPED = {peft.METADATA_KEY, "format"}


def convert_lora(request: Request) -> Conversion:
    """Convert a LoRA or LoCon; one that stays in its dialect is only cast, whatever it holds.

    Raises:
        ConfigError: It is not told which dialect is wanted.
        ModelError: It holds layers that have no form in the other dialect.
    """
    dialect = _choose_dialect(request)
    if _stays(request, dialect):
        return _cast_only(request)
    family = request.family or request.source.family
    layers = [layer for facts in _sources(request) for layer in read_layers(facts, family)]
    if not layers:
        raise ModelError("it holds no layers", where=str(request.source.path))
    path, count = Counter(layer.path for layer in layers).most_common(1)[0]
    if count > 1:
        raise ModelError(f"it holds {path} {count} times, under different names", where=str(request.source.path))
    outputs = [_cast(output, request.dtype) for output in _outputs(request, dialect, layers)]
    return Conversion(outputs=outputs, lines=tuple(_tell(request, dialect, layers)))


def _stays(request: Request, dialect: Dialect) -> bool:
    """Tell whether names stay as they are; a LoRA with `--to webui` gets the names that every reader knows."""
    is_same = dialect == request.source.dialect and request.second is None
    return is_same and (request.to is None or request.source.kind == "lycoris")


def _cast(output: TensorsOutput, dtype: Precision | None) -> TensorsOutput:
    return replace(output, tensors=cast_all(output.tensors, dtype, _ALPHA))


def _sources(request: Request) -> Iterator[FileFacts]:
    yield request.source
    if request.second:
        yield request.second


def _choose_dialect(request: Request) -> Dialect:
    if request.to == "folder":
        raise ConfigError("a LoRA is a file, not a folder", hint="choose --to webui, diffusers or hcp")
    if request.to:
        return _DIALECTS[request.to]
    if request.source.dialect == "kohya" and request.dtype is None:
        raise ConfigError(
            f"{request.source.path.name} is in webui's form already",
            hint="choose --to diffusers, --to hcp, or a --dtype",
        )
    return "kohya"


def _cast_only(request: Request) -> Conversion:
    facts = request.source
    if request.dtype is None:
        raise ConfigError(f"{facts.path.name} is of that form already", hint="choose another --to, or a --dtype")
    tensors = {name: facts.contents.read(name) for name in facts.tensors}
    output = TensorsOutput(path=request.target, tensors=tensors, metadata=facts.metadata)
    return Conversion(outputs=[_cast(output, request.dtype)], lines=[f"cast {len(tensors)} tensors to {request.dtype}"])


def _outputs(request: Request, dialect: Dialect, layers: Sequence[LowRank]) -> Iterator[TensorsOutput]:
    carried = {key: value for key, value in request.source.metadata.items() if key not in _DROPPED}
    if dialect == "kohya":
        yield _kohya_output(request, layers, carried)
    elif dialect == "hcp":
        yield from _hcp_outputs(request, hcp.write(layers), carried)
    else:
        told = peft.describe(layers) if request.keeps_alpha else {}
        tensors = peft.write_unfolded(layers) if request.keeps_alpha else peft.write(layers)
        yield TensorsOutput(path=request.target, tensors=tensors, metadata=carried | told | {"format": "pt"})


def _kohya_output(request: Request, layers: Sequence[LowRank], carried: dict[str, str]) -> TensorsOutput:
    family = request.family or request.source.family or _family_of_second(request)
    if family is None:
        raise ModelError(
            f"{request.source.path.name} does not tell its family: {request.source.family_reason}",
            hint="give --family sd1, sd2 or sdxl",
        )
    try:
        tensors = kohya.write(layers, family)
    except KeyError as error:
        raise ModelError(f"{family} has no layer {error.args[0]}", where=str(request.source.path)) from error
    metadata = kohya.describe(layers, family, request.target.stem) | carried
    return TensorsOutput(path=request.target, tensors=tensors, metadata=metadata)


def _family_of_second(request: Request) -> Family | None:
    return request.second.family if request.second else None


def _hcp_outputs(
    request: Request, files: Mapping[str, Mapping[str, Tensor]], metadata: Mapping[str, str]
) -> Iterator[TensorsOutput]:
    """Name HCP's files: TARGET for one part, `unet-STEM` and `text_encoder-STEM` in the folder TARGET for two."""
    if request.target.suffix != ".safetensors":
        for part, tensors in files.items():
            path = request.target / f"{part}-{request.source.path.stem}.safetensors"
            yield TensorsOutput(path=path, tensors=tensors, metadata=metadata)
    elif len(files) == 1:
        yield TensorsOutput(path=request.target, tensors=next(iter(files.values())), metadata=metadata)
    else:
        raise ConfigError(
            f"HCP-Diffusion has a file for each part, and {request.target} is one file",
            hint="give a folder as TARGET",
        )


def _tell(request: Request, dialect: Dialect, layers: Sequence[LowRank]) -> Iterator[str]:
    counts = Counter(layer.component for layer in layers)
    told = ", ".join(f"{count} in {component}" for component, count in counts.items())
    source = TITLES.get(request.source.dialect or "mixed", "mixed")
    yield f"LoRA from {source} to {TITLES[dialect]}: {len(layers)} layer{'s' * (len(layers) > 1)} ({told})"
    if source == TITLES["hcp"] and dialect != "hcp":
        yield f"alpha: {len(layers)} multiplied by the rank, since HCP-Diffusion stores alpha / rank"
    elif dialect == "hcp":
        yield f"alpha: {len(layers)} divided by the rank, as HCP-Diffusion stores them"
    scaled = sum(layer.scale != 1 for layer in layers)
    if dialect == "diffusers" and scaled and request.keeps_alpha:
        yield "alpha: in the metadata, which diffusers reads from 0.35 on; other programs would not see it"
    elif dialect == "diffusers" and scaled:
        yield f"alpha: {scaled} multiplied into lora_B"
