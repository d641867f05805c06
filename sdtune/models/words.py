"""Words of a caption that stand for vectors of their own (Gal et al. 2022), placed as A1111's webui places them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sdtune.errors import ModelError, Problems
from sdtune.models.prompt import Span, Unit, parse_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Words:
    """The words of one text encoder. New token ids from V on, the size of its vocabulary, stand for the vectors.

    Nothing of the text encoder is changed: ids from V on are looked up here, by hooks on its token embedding.

    Attributes:
        vectors: Word to (n, D), in the order of their ids.
    """

    def __init__(self) -> None:
        self.vectors: Mapping[str, Tensor] = {}
        self._places: list[tuple[list[int], list[int]]] = []
        self._hooks: list[Any] = []
        self._ids: Tensor | None = None
        self._are_lifted = False

    def replace(self, tokenizer: Any, embedding: nn.Embedding, vectors: Mapping[str, Tensor]) -> None:
        """Set the words.

        Args:
            tokenizer: Of transformers.
            embedding: The encoder's token embedding (V, D).
            vectors: Word to (n, D).

        Raises:
            ModelError: A width is not D, there is no room for so many vectors, or a word has no tokens.
        """
        _check(tokenizer, embedding, vectors)
        self.vectors = dict(vectors)
        self._places = []
        first = embedding.num_embeddings
        for word, own in vectors.items():
            ids = list(range(first, first + len(own)))
            self._places.append((_word_ids(tokenizer, word), ids))
            first += len(own)
        self._places.sort(key=lambda place: -len(place[0]))
        self.hook(embedding)

    def hook(self, embedding: nn.Embedding) -> None:
        """Look new ids up in this token embedding from now on: after words are set, or the encoder is loaded anew."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._places:
            before = embedding.register_forward_pre_hook(self._keep_ids)
            self._hooks = [before, embedding.register_forward_hook(self._put_vectors)]

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Have no effect on the token embedding for as long as the context lasts."""
        self._are_lifted = True
        try:
            yield
        finally:
            self._are_lifted = False

    def read(self, tokenizer: Any, caption: str, *, weighted: bool) -> list[list[Unit]]:
        """Give a caption's sections: its tokens, each word's vectors as one unit.

        Args:
            tokenizer: Of transformers.
            caption: A caption or prompt.
            weighted: Whether brackets are weights and `BREAK` begins a section; else there is one section.
        """
        sections = parse_weights(caption) if weighted else [[Span(caption)]]
        comma = tuple(_word_ids(tokenizer, ","))
        return [[unit for span in section for unit in self._units(tokenizer, span, comma)] for section in sections]

    def feed(self, digest: Any) -> None:
        """Feed a hash of hashlib with the words and their vectors."""
        for (word, ids), vectors in zip(self._places, self.vectors.values(), strict=True):
            digest.update(f"{word}\x1f{ids}\x1f".encode())
            digest.update(vectors.detach().float().cpu().contiguous().numpy().tobytes())

    def _units(self, tokenizer: Any, span: Span, comma: tuple[int, ...]) -> Iterator[Unit]:
        tokens, position = _word_ids(tokenizer, span.text), 0
        while position < len(tokens):
            word, new = self._word_at(tokens, position)
            yield Unit(tuple(new), span.weight, is_comma=tuple(new) == comma)
            position += len(word)

    def _word_at(self, tokens: list[int], position: int) -> tuple[list[int], list[int]]:
        for word, new in self._places:
            if tokens[position : position + len(word)] == word:
                return word, new
        return [tokens[position]], [tokens[position]]

    def _keep_ids(self, embedding: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self._are_lifted:
            return args
        self._ids = args[0]
        assert isinstance(embedding, nn.Embedding)
        return (args[0].clamp(max=embedding.num_embeddings - 1), *args[1:])

    def _put_vectors(self, embedding: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if self._are_lifted:
            return output
        assert isinstance(embedding, nn.Embedding)
        assert self._ids is not None
        places = self._ids - embedding.num_embeddings
        table = torch.cat(list(self.vectors.values())).to(output)
        return torch.where((places >= 0)[..., None], table[places.clamp(min=0)], output)


def _check(tokenizer: Any, embedding: nn.Embedding, vectors: Mapping[str, Tensor]) -> None:
    problems = Problems(ModelError)
    for word, own in vectors.items():
        if own.ndim != 2 or own.shape[1] != embedding.embedding_dim:
            wanted = f"(n, {embedding.embedding_dim})"
            problems.add(f"the embedding {word!r} has shape {tuple(own.shape)}, this text encoder takes {wanted}")
        elif not 0 < len(own) <= (room := tokenizer.model_max_length - 2):
            problems.add(f"the embedding {word!r} has {len(own)} vectors, it may have 1 to {room}")
        if not _word_ids(tokenizer, word):
            problems.add(f"the embedding's name {word!r} has no tokens", hint="choose a word")
    problems.raise_if_any()


def _word_ids(tokenizer: Any, word: str) -> list[int]:
    ids: list[int] = tokenizer(word, add_special_tokens=False, verbose=False).input_ids
    return ids
