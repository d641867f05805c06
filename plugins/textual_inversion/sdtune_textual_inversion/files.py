"""Embeddings as files to be: what webui, ComfyUI and diffusers load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.api import Artifact, BytesArtifact, PickledArtifact, embedding_tensors, encode_card, webui_embedding

if TYPE_CHECKING:
    from PIL import Image

    from sdtune.api import AnyArtifact, Embedding
    from sdtune_textual_inversion.config import EmbeddingFormat


def make_artifact(
    embedding: Embedding, form: EmbeddingFormat, *, is_delivered: bool, picture: Image.Image | None = None
) -> AnyArtifact:
    """Give an embedding as a file to be; its name is the word, as webui reads it.

    Args:
        embedding: What goes in.
        form: Which form.
        is_delivered: A webui gets it.
        picture: For the card.
    """
    stem = embedding.name
    if form == "pt":
        return PickledArtifact(
            kind="embedding", stem=stem, content=webui_embedding(embedding), is_delivered=is_delivered
        )
    if form == "png":
        content = encode_card(embedding, picture)
        return BytesArtifact(kind="embedding", stem=stem, suffix=".png", content=content, is_delivered=is_delivered)
    tensors = embedding_tensors(embedding)
    return Artifact(
        kind="embedding",
        stem=stem,
        tensors=tensors,
        metadata={},
        keep_dtype=tuple(tensors),  # small, and half precision would be felt
        architecture_suffix="/textual-inversion",
        is_delivered=is_delivered,
    )
