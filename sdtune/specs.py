"""What a plugin declares: light descriptions, nothing heavy imported until a run starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
        switches: Pairs of an option of `config` and the method that is meant where it is true.
    """

    name: str
    summary: str
    config: type[Options]
    factory: str
    families: frozenset[str] | None = None
    aliases: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    switches: tuple[tuple[str, str], ...] = ()


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
