"""What a plugin declares: light descriptions, nothing heavy imported until a run starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdtune.config.base import Options


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSpec:
    """A way to train.

    Attributes:
        name: What `--method` takes, and the name of the method's section in the configuration.
        summary: One line for `sdtune plugins` and the help.
        config: Options of the section `name`.
        factory: Import string `module:Class` of a `sdtune.api.Method`, resolved when a run starts.
        families: Model families it works on; None means every family.
        aliases: Further names for `--method`.
        flags: Options of `config` that are offered as command-line flags, e.g. ("rank", "alpha").
        is_usual: It is meant when no method is named.
        demo: Options (`a.b=c`) under which it learns a subject on the demo model in a minute or two.
        parts: The methods this one is made of, in a run of several (`--method a+b`); empty for a method of its own.
    """

    name: str
    summary: str
    config: type[Options]
    factory: str
    families: frozenset[str] | None = None
    aliases: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    is_usual: bool = False
    demo: tuple[str, ...] = ()
    parts: tuple[MethodSpec, ...] = ()

    @property
    def sections(self) -> tuple[MethodSpec, ...]:
        """The methods that have a section in the configuration: its parts, or itself."""
        return self.parts or (self,)


def combine(parts: Sequence[MethodSpec]) -> MethodSpec:
    """Describe several methods in one run; it works on the families all of them work on."""
    limits = [part.families for part in parts if part.families is not None]
    return MethodSpec(
        name="+".join(part.name for part in parts),
        summary="; ".join(part.summary for part in parts),
        config=parts[0].config,
        factory="",
        families=frozenset.intersection(*limits) if limits else None,
        demo=parts[0].demo,
        parts=tuple(parts),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilySpec:
    """A kind of model.

    Attributes:
        name: What `model.family` takes, e.g. `sd1`.
        summary: One line for the help.
        factory: Import string `module:function` taking a `sdtune.models.base.ModelSource`, giving a `DiffusionModel`.
    """

    name: str
    summary: str
    factory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggerSpec:
    """A program that writes captions.

    Attributes:
        name: What `sdtune data caption --tagger` takes.
        summary: One line for the help.
        factory: Import string `module:Class`.
    """

    name: str
    summary: str
    factory: str
