"""Textual inversion as a method."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from sdtune.api import ConfigError, Embedding, Method, ModelError, ParamGroup, Problems, read_embedding
from sdtune_textual_inversion.config import TextualInversionOptions
from sdtune_textual_inversion.files import make_artifact
from sdtune_textual_inversion.initial import spread
from sdtune_textual_inversion.templates import NAME, fill, mentions, read_template

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from PIL import Image
    from torch import Tensor

    from sdtune.api import AnyArtifact, DiffusionModel, ImageRecord, Part, RunInfo, Subset
    from sdtune_textual_inversion.config import TokenOptions


class TextualInversionMethod(Method[TextualInversionOptions]):
    """Train the vectors of new words; no weight of the model changes."""

    kind = "embedding"

    def __init__(self, config: TextualInversionOptions) -> None:
        super().__init__(config)
        self._tokens = config.resolved
        self._template = read_template(config.template)
        self._vectors: dict[str, dict[str, nn.Parameter]] = {}

    def parts(self) -> Sequence[Part]:
        """List the parts that gradients pass through."""
        return ("unet", "text_encoder")

    def check(self, images: Sequence[ImageRecord]) -> None:
        """Refuse data in which a word never stands: it would learn nothing.

        Raises:
            ConfigError: Names each such word.
        """
        problems = Problems(ConfigError)
        forms = {form for image in images for form in self.captions(image.caption, image.subset)}
        for token in self._tokens:
            if not any(mentions(form, token.name) for form in forms):
                problems.add(
                    f"no caption has the word {token.name!r}, so it would learn nothing",
                    where="textual_inversion",
                    hint="set template=subject, or write it into the captions",
                )
        problems.raise_if_any()

    def attach(self, model: DiffusionModel, seed: int) -> Sequence[ParamGroup]:
        """Let the words stand for vectors of their own; nothing is drawn at random.

        Raises:
            ConfigError: An `init_file` is not there, or has another number of vectors.
            ModelError: An `init_file` is no embedding of this family, or a word has no tokens.
        """
        self._vectors = {token.name: _as_parameters(initial_vectors(model, token)) for token in self._tokens}
        model.set_embeddings(self._vectors)
        return [self._group(token) for token in self._tokens]

    def captions(self, text: str, subset: Subset) -> Sequence[str]:
        """Put the words of the subset, and the caption, into each line of the template."""
        names = [token.name for token in self._tokens if not token.subsets or subset.name in token.subsets]
        lines = self._template if names else [line for line in self._template if NAME not in line]
        return tuple(fill(line, " ".join(names), text) for line in lines) or (text,)

    @torch.no_grad()
    def after_step(self, model: DiffusionModel, step: int) -> None:
        """Shorten vectors that are longer than `max_norm`."""
        if self.config.max_norm is None:
            return
        for vectors in self._parameters():
            vectors.mul_((self.config.max_norm / vectors.norm(dim=1, keepdim=True)).clamp(max=1))

    def metrics(self) -> Mapping[str, float]:
        """Give the mean length of each word's vectors."""
        return {
            f"norm/{name}": float(torch.cat([own.detach().norm(dim=1) for own in vectors.values()]).mean())
            for name, vectors in self._vectors.items()
        }

    def export(self, model: DiffusionModel, run: RunInfo) -> Iterator[AnyArtifact]:
        """Give each word in each form, under the word's own name."""
        picture = _open(run.picture) if "png" in self.config.formats else None
        for token in self._tokens:
            embedding = Embedding(
                name=token.name + run.suffix,
                vectors={encoder: own.detach().clone() for encoder, own in self._vectors[token.name].items()},
                step=run.step,
                base_hash=run.base_digest[:10],
                base_name=run.base_name,
            )
            for number, form in enumerate(self.config.formats):
                yield make_artifact(embedding, form, is_delivered=number == 0, picture=picture)

    def _parameters(self) -> Iterator[nn.Parameter]:
        for vectors in self._vectors.values():
            yield from vectors.values()

    def _group(self, token: TokenOptions) -> ParamGroup:
        return ParamGroup(
            name=token.name,
            part="text_encoder",
            params={f"embedding.{token.name}.{encoder}": own for encoder, own in self._vectors[token.name].items()},
            lr=token.lr,
            modules=1,
            weight_decay=0.0,  # zero is no word: webui and the paper do not pull towards it either
        )


def initial_vectors(model: DiffusionModel, token: TokenOptions) -> dict[str, Tensor]:
    """Give a word's first vectors by text encoder, each (n, D) float32.

    Raises:
        ConfigError: `init_file` is not there, or has another number of vectors than asked for.
        ModelError: `init_file` is no embedding, or one of another family.
    """
    given = model.embed_tokens(token.init_text or "")
    if token.init_file is None:
        return {encoder: spread(vectors, token.vectors or 1) for encoder, vectors in given.items()}
    read = read_embedding(token.init_file)
    if token.vectors not in (None, read.count):
        raise ConfigError(
            f"{token.init_file} has {read.count} vectors, not {token.vectors}", hint="leave `vectors` of this token out"
        )
    if read.vectors.keys() != given.keys():
        found, wanted = ", ".join(read.vectors), ", ".join(given)
        raise ModelError(
            f"the embedding is for the text encoders {found}, this model has {wanted}",
            where=str(token.init_file),
            hint="it is of another model family",
        )
    return {encoder: read.vectors[encoder].to(vectors.device) for encoder, vectors in given.items()}


def _as_parameters(vectors: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    return {encoder: nn.Parameter(own.float().clone()) for encoder, own in vectors.items()}


def _open(path: Path | None) -> Image.Image | None:
    if path is None:
        return None
    from PIL import Image

    with Image.open(path) as picture:
        return picture.convert("RGB")
