from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import pytest
from pydantic import Field

from sdtune.config.base import Options
from sdtune.config.compose import Loaded, load
from sdtune.errors import ConfigError
from sdtune.specs import MethodSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

# Text that tempts a careless writer or reader.
TEXTS = (
    *(
        "",
        " ",
        "a ",
        " a",
        "null",
        "~",
        "true",
        "on",
        "1e-4",
        "007",
        "0o17",
        "1_000",
        ".inf",
        ".nan",
        "16:9",
        "---",
        "...",
    ),
    *("- a", "? a", "a: b", "a:", "a #b", "#a", "&a", "*a", "!a", "!!str a", "|", ">", "%a", "@a", "`a`", "<<", "="),
    *("[a]", "{a: b}", "a, b", "]", "}", "'", '"', "''", "it's", 'say "x"', "\\", "\\n", "C:\\Users\\é", "a\\"),
    *("\n", "a\nb", "\ta", "a\tb", "\r\n", "\x00", "\x07", "\x1b[31m", "\x7f", "\x85", "\xa0", "\u2028", "\ufeff"),
    *("\uffff", "😀", "日本語", "é", "ا", "${a.b}", "$${a}", "$$${a}", "${", "$", "${eval:1+1}", "x" * 500),
)


class PlainOptions(Options):
    """One kind of a section with two kinds."""

    kind: Literal["plain"] = "plain"
    """Which kind."""
    size: Annotated[int, Field(ge=1)] = 3
    """Size."""


class OtherOptions(Options):
    """The other kind."""

    kind: Literal["other"] = "other"
    """Which kind."""
    factor: int = 2
    """Factor."""


class LoraOptions(Options):
    """Options of a method for tests."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of the matrices."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Scale is alpha / rank; null: as rank."""
    te_lr: float | None = None
    """Learning rate of the text encoder; null: as train.lr."""
    block_ranks: dict[str, int] = Field(default_factory=dict)
    """Rank by block."""
    mode: str | float = "plain"
    """A union."""
    window: tuple[float, float] = (0.9, 0.999)
    """Two numbers."""
    layers: Annotated[PlainOptions | OtherOptions, Field(discriminator="kind")] = PlainOptions()
    """A section with two kinds."""


class WordOptions(Options):
    """Options of a method with a required one."""

    token: str
    """The new word."""
    low_rank: bool = False
    """Train low-rank matrices instead."""


LORA = MethodSpec(
    name="lora", summary="Low-rank matrices.", config=LoraOptions, factory="nowhere:Lora", flags=("rank", "alpha")
)
WORDS = MethodSpec(
    name="words",
    summary="New words.",
    config=WordOptions,
    factory="nowhere:Words",
    aliases=("ti",),
    switches=(("low_rank", "lora"),),
)


class FakeRegistry:
    """The two questions that loading asks; the usual method is lora."""

    def methods(self) -> Mapping[str, MethodSpec]:
        return {"lora": LORA, "words": WORDS}

    def method(self, name: str) -> MethodSpec:
        for spec in (LORA, WORDS):
            if name in (spec.name, *spec.aliases) or not name:
                return spec
        raise ConfigError(f"unknown method {name!r}", hint="did you mean 'lora'?")


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def load_text(registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Loaded]:
    """Load options from text, as if written to run.yaml in the current folder."""
    from pathlib import Path

    monkeypatch.chdir(tmp_path)

    def run(text: str, *overrides: str, flags: tuple = ()) -> Loaded:
        Path("run.yaml").write_text(text, encoding="utf-8")
        return load(registry, Path("run.yaml"), overrides=overrides, flags=flags)

    return run


@pytest.fixture
def problems_of(load_text: Callable[..., Loaded]) -> Callable[..., list[str]]:
    """The problems of text that must not load."""

    def run(text: str, *overrides: str, flags: tuple = ()) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load_text(text, *overrides, flags=flags)
        return str(caught.value).splitlines()

    return run


@pytest.fixture(params=TEXTS, ids=ascii)
def any_text(request: pytest.FixtureRequest) -> str:
    """Text that tempts a careless writer or reader."""
    return request.param
