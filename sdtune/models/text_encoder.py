"""One text encoder's way from captions to hidden states; the module itself belongs to the model."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from sdtune.errors import ModelError
from sdtune.models.naming import count_numbers
from sdtune.models.pieces import Pieces, emphasize, stack_rows
from sdtune.models.prompt import Marks, Reading, read_pieces
from sdtune.models.words import Words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor, nn

    from sdtune.config.model import ModelOptions
    from sdtune.models.architecture import SDFamily, TextFamily


class TextEncoder:
    """How a text encoder is read: its marks, its layer, its words.

    Args:
        text: What no shape tells about it.
        family: The family it belongs to.
        layers: Layers its file holds, computed or not.
        clip_skip: Which hidden state is used: 1 the last of all layers, 2 the one before.

    Raises:
        ModelError: There is no such layer, or it is one of those that nobody computes.
    """

    def __init__(self, text: TextFamily, family: SDFamily, *, layers: int, clip_skip: int) -> None:
        if not text.dropped_layers < clip_skip <= layers + text.dropped_layers:
            raise ModelError(
                f"clip_skip is {clip_skip}, but the text encoder has {layers + text.dropped_layers} layers"
                + (f", and the last {text.dropped_layers} is never used" if text.dropped_layers else ""),
                where="model.clip_skip",
                hint=f"give a number from {text.dropped_layers + 1} to {layers + text.dropped_layers}",
            )
        self.text = text
        self.words = Words()
        self._used_layers = layers - (clip_skip - text.dropped_layers) + 1
        self._skipped = clip_skip - text.dropped_layers
        self._normalizes = family.normalizes_text

    def is_idle(self, name: str) -> bool:
        """Tell whether no answer depends on a module or weight (canonical name): it lies behind what is used."""
        if self.text.is_pooled:
            return False
        if name.startswith("text_model.final_layer_norm"):
            return not self._normalizes
        return count_numbers([name], r"text_model\.encoder\.layers\.(\d+)\b") > self._used_layers

    def read(self, tokenizer: Any, caption: str, options: ModelOptions) -> Reading:
        """Read a caption as the rows this text encoder is given."""
        end = tokenizer.eos_token_id
        marks = Marks(tokenizer.bos_token_id, end, pad=end if self.text.pads_with_end else 0)
        sections = self.words.read(tokenizer, caption, weighted=options.weighted_words)
        return read_pieces(sections, length=tokenizer.model_max_length, most=options.chunks, marks=marks)

    def encode(self, module: nn.Module, readings: Sequence[Reading], end: int) -> Pieces:
        """Encode captions, and weigh their hidden states.

        Args:
            module: `CLIPTextModel` or `CLIPTextModelWithProjection`.
            readings: As `read` gives them.
            end: Id of the end mark.

        Returns:
            All pieces; the pooled text, where there is a projection, is that of the first end mark, and has no weights.
        """
        tokens, weights = stack_rows([row for reading in readings for row in reading.rows])
        hidden, pooled = self._encode(module, tokens.to(next(module.parameters()).device), end)
        counts = tuple(len(reading.rows) for reading in readings)
        return Pieces(hidden=emphasize(hidden, weights), pooled=pooled, counts=counts)

    def _encode(self, module: nn.Module, tokens: Tensor, end: int) -> tuple[Tensor, Tensor | None]:
        encoder: Any = module
        if self._skipped == 1 and self._normalizes:
            last: Tensor = encoder(tokens).last_hidden_state
            return last, None
        answer = encoder(tokens, output_hidden_states=True)
        hidden: Tensor = answer.hidden_states[-self._skipped]
        if self._normalizes:
            hidden = _inner(encoder).final_layer_norm(hidden)
        return hidden, self._pool(encoder, answer.last_hidden_state, tokens, end)

    def _pool(self, encoder: Any, last: Tensor, tokens: Tensor, end: int) -> Tensor | None:
        if not self.text.is_pooled:
            return None
        # by the end mark's id: the largest id, which older libraries look for, may be that of a word of one's own
        first_end = (tokens == end).int().argmax(1)
        pooled: Tensor = encoder.text_projection(last[range(len(last)), first_end])
        return pooled

    def place_words(self, tokenizer: Any, embedding: nn.Embedding, words: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Let words stand for vectors; see `DiffusionModel.set_embeddings`.

        Raises:
            ModelError: A word has no vectors for this text encoder, or of another width.
        """
        key = self.text.word_key
        if lacking := [word for word, vectors in words.items() if key not in vectors]:
            raise ModelError(f"the embedding {lacking[0]!r} has no vectors '{key}': it was made for another family")
        self.words.replace(tokenizer, embedding, {word: vectors[key] for word, vectors in words.items()})


def check_counts(words: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Refuse a word with unlike numbers of vectors for two text encoders: their pieces would not be of one text.

    Raises:
        ModelError: There is such a word.
    """
    for word, vectors in words.items():
        counts = {key: len(own) for key, own in vectors.items()}
        if len(set(counts.values())) > 1:
            raise ModelError(f"the embedding {word!r} has unlike numbers of vectors: {counts}")


def digest_reading(facts: tuple[object, ...], tokenizer: Mapping[str, bytes], words: Iterable[Words]) -> str:
    """Hash all that an answer depends on (BLAKE2b-128, hex).

    Args:
        facts: Plain values: weights, options, dtype.
        tokenizer: The tokenizer's files.
        words: Of each text encoder.
    """
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=16)
    for name, content in sorted(tokenizer.items()):
        digest.update(f"{name}\x1f{len(content)}\x1f".encode() + content)
    for own in words:
        own.feed(digest)
    return digest.hexdigest()


def _inner(encoder: Any) -> Any:
    """Find the transformer: in transformers 5 `CLIPTextModel` is it, elsewhere it is called `text_model`."""
    return encoder._modules.get("text_model", encoder)
