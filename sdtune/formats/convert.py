"""From one form to another: finds what the source is, and who converts such files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.errors import ConfigError, ModelError
from sdtune.formats.checkpoints import convert_checkpoint
from sdtune.formats.dialects import convert_lora
from sdtune.formats.embedding_forms import convert_embedding

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sdtune.formats.facts import Kind
    from sdtune.formats.outputs import Conversion, Request

_CONVERTERS: Mapping[Kind, Callable[[Request], Conversion]] = {
    "lora": convert_lora,
    "lycoris": convert_lora,
    "embedding": convert_embedding,
    "checkpoint": convert_checkpoint,
    "diffusers_folder": convert_checkpoint,
}


def convert(request: Request) -> Conversion:
    """Convert a LoRA, an embedding or a model; nothing is written.

    Raises:
        ConfigError: It is not told what is wanted, or the target is the source.
        ModelError: The source is of another kind, or has no such form.
    """
    source = request.source
    if source.kind not in _CONVERTERS:
        raise ModelError(
            f"{source.path.name} is no LoRA, embedding or model, and has one form only",
            hint=f"'sdtune inspect {source.path.name}' tells what it is",
        )
    if request.target.resolve() == source.path.resolve():
        raise ConfigError(f"{request.target} is the source itself", hint="choose another name")
    return _CONVERTERS[source.kind](request)
