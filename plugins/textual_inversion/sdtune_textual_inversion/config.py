"""Options of textual inversion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from sdtune.api import LearningRate, Options

EmbeddingFormat = Literal["pt", "safetensors", "png"]
FORMATS: tuple[EmbeddingFormat, ...] = get_args(EmbeddingFormat)
# A word in the captions of the examples, and in no dictionary.
DEFAULT_NAME = "zwx"


def _check_name(value: str) -> str:
    """Keep to what webui's own Create tab leaves of a name, and to what every file system takes."""
    is_plain = all(letter.isalnum() or letter in "._- " for letter in value)
    if not (is_plain and value[:1].isalnum() and value[-1:] not in (".", " ")):
        raise ValueError("must be letters, digits and ._- or spaces, with a letter or digit first and no . at the end")
    return value


def _check_formats(value: tuple[EmbeddingFormat, ...]) -> tuple[EmbeddingFormat, ...]:
    if not value or len(set(value)) < len(value):
        raise ValueError("must be at least one form, each once")
    return value


Name = Annotated[str, Field(max_length=75), AfterValidator(_check_name)]
Count = Annotated[int, Field(ge=1, le=75)]


class TokenOptions(Options):
    """One embedding."""

    name: Name
    """The word in the prompt, and the file's name. Letters are not told apart by case. Choose a word that no other
    prompt has: where it stands, the vectors stand from then on."""
    vectors: Count | None = None
    """How many tokens it takes the place of; None: as `init_file` has, else `textual_inversion.vectors`."""
    init_text: str | None = None
    """Begin from these words, one token for each vector; empty: from zeros. None: `textual_inversion.init_text`."""
    init_file: Path | None = None
    """Begin from another embedding: .pt, .bin, .safetensors, or a picture with one inside."""
    lr: LearningRate | None = None
    """Learning rate; None: `textual_inversion.lr`."""
    subsets: tuple[str, ...] = ()
    """Names of the data folders that show it, e.g. `10_dog`; empty: all of them."""

    @model_validator(mode="after")
    def _check_init(self) -> TokenOptions:
        if self.init_text is not None and self.init_file is not None:
            raise ValueError("give either init_text or init_file, not both")
        return self


class TextualInversionOptions(Options):
    """Textual inversion (Gal et al. 2022): vectors of a new word are trained, everything else is frozen."""

    token: Name | None = None
    """The new word, and the file's name. None: `zwx`, where `tokens` has none either."""
    vectors: Count = 4
    """Vectors for each word. More hold more detail and fit a small set of images sooner; a prompt has room for 75."""
    init_text: str = "*"
    """Begin from these words, e.g. "small dog": vector i is that of word i * words // vectors. Empty: zeros."""
    lr: LearningRate = 5e-3
    """Learning rate, in place of `train.lr`; also webui's `0.005:100, 1e-3:1000`. 5e-3 is webui's and the paper's."""
    tokens: tuple[TokenOptions, ...] = ()
    """Several embeddings, each with its own options, in place of `token`."""
    template: str = "subject"
    """What the model is told at a visit: `none` (the caption as it is), `subject`, `subject_filewords`, `style`,
    `style_filewords`, or a file with one text a line. [name] is the word, [filewords] the caption."""
    max_norm: Annotated[float, Field(gt=0)] | None = None
    """After each step, shorten vectors longer than this. None: never; the words of SD1 have about 0.4."""
    formats: Annotated[tuple[EmbeddingFormat, ...], AfterValidator(_check_formats)] = FORMATS
    """What is written: `pt` (webui), `safetensors`, `png` (a picture with it inside). A webui gets the first."""

    @property
    def resolved(self) -> tuple[TokenOptions, ...]:
        """All embeddings of the run, nothing left open but the number of vectors of an `init_file`."""
        tokens = self.tokens or (TokenOptions(name=self.token or DEFAULT_NAME),)
        return tuple(self._resolve(token) for token in tokens)

    def _resolve(self, token: TokenOptions) -> TokenOptions:
        given = {"lr": self.lr if token.lr is None else token.lr}
        if token.init_file is not None:
            return token.model_copy(update=given)
        text = self.init_text if token.init_text is None else token.init_text
        return token.model_copy(update={**given, "vectors": token.vectors or self.vectors, "init_text": text})

    @model_validator(mode="after")
    def _check_tokens(self) -> TextualInversionOptions:
        if self.token is not None and self.tokens:
            raise ValueError("give either token or tokens, not both")
        names = [token.name.lower() for token in self.tokens]
        if len(set(names)) < len(names):
            raise ValueError("tokens must have different names; letters are not told apart by case")
        return self
