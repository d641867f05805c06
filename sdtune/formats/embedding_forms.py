"""An embedding from one form of file to another: `.pt`, `.safetensors` of webui or diffusers, or a picture."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sdtune.errors import ConfigError, ModelError
from sdtune.formats.card import encode_card
from sdtune.formats.casting import cast_all
from sdtune.formats.embedding import embedding_tensors, webui_embedding
from sdtune.formats.embedding_files import read_embedding
from sdtune.formats.outputs import BytesOutput, Conversion, PickledOutput, TensorsOutput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdtune.formats.embedding import Embedding
    from sdtune.formats.outputs import Output, Request

_SUFFIXES = (".pt", ".safetensors", ".png")


def convert_embedding(request: Request) -> Conversion:
    """Convert an embedding; TARGET's suffix tells the form, its stem becomes the word, as webui reads it.

    Raises:
        ConfigError: There is no such form.
        ModelError: It has two text encoders, and diffusers' form has one.
    """
    if request.target.suffix.lower() not in _SUFFIXES or request.to in ("hcp", "folder"):
        raise ConfigError(
            f"an embedding cannot become {request.to or request.target.name}", hint=f"end TARGET in {_listed()}"
        )
    embedding = replace(read_embedding(request.source.path), name=request.target.stem)
    return Conversion(outputs=[_output(request, embedding)], lines=tuple(_tell(request, embedding)))


def _listed() -> str:
    return f"{', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}"


def _output(request: Request, embedding: Embedding) -> Output:
    path = request.target
    suffix = path.suffix.lower()
    if suffix != ".safetensors" and (request.dtype not in (None, "fp32") or request.to == "diffusers"):
        raise ConfigError(f"a {suffix} holds fp32, in webui's form", hint="end TARGET in .safetensors")
    if suffix == ".pt":
        return PickledOutput(path=path, content=webui_embedding(embedding))
    if suffix == ".png":
        return BytesOutput(path=path, content=encode_card(embedding))
    tensors = embedding_tensors(embedding)
    if request.to == "diffusers":
        if len(tensors) > 1:
            raise ModelError(
                f"{request.source.path.name} is for two text encoders, and diffusers' form holds one",
                hint="load each tensor of a .safetensors file: load_textual_inversion(tensor, token=...)",
            )
        tensors = {embedding.name: next(iter(tensors.values()))}
    return TensorsOutput(path=path, tensors=cast_all(tensors, request.dtype), metadata=_metadata(request))


def _metadata(request: Request) -> dict[str, str]:
    told = dict(request.source.metadata)
    return told | {"format": "pt"} if request.to == "diffusers" else told


def _tell(request: Request, embedding: Embedding) -> Iterator[str]:
    widths = " and ".join(str(vectors.shape[1]) for vectors in embedding.vectors.values())
    yield f"embedding {embedding.name!r}: {embedding.count} vectors, {widths} wide"
    if request.target.suffix.lower() == ".pt" and len(embedding.vectors) > 1:
        yield "a .pt for two text encoders holds their vectors alone: step and model are left out"
    elif request.target.suffix.lower() == ".safetensors" and (embedding.step or embedding.base_name):
        yield f"left out: step {embedding.step or 0} and the model's name, which this form has no place for"
