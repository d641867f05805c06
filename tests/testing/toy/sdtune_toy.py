"""A plugin with one right method, `toy`, and one for each way to be wrong."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from sdtune.api import MethodSpec, Options, hookimpl


class ToyOptions(Options):
    """A small LoRA."""

    rank: Annotated[int, Field(ge=1, le=64)] = 4
    """Rank."""


class Undocumented(ToyOptions):
    secret: bool = False


class Unbounded(ToyOptions):
    scale: float = 1.0
    """Any number."""


class Thawed(ToyOptions):
    model_config = ConfigDict(frozen=False)


class Required(ToyOptions):
    word: str
    """A word."""


CONFIGS = {"undocumented": Undocumented, "unbounded": Unbounded, "thawed": Thawed, "required": Required}
FAULTS = (
    *("left_out", "no_alpha", "transposed", "touching", "unseeded", "unreached", "stuck", "forgetful", "batchwise"),
    *("impure", "shifted", "bf16_lover", "stale", "moody", "misnamed", "silent"),
)


@hookimpl
def sdtune_methods() -> list[MethodSpec]:
    """Bring `toy` and its faulty children."""
    configs = {"toy": ToyOptions} | CONFIGS | dict.fromkeys(FAULTS, ToyOptions)
    return [_spec(name, config) for name, config in configs.items()]


def _spec(name: str, config: type[Options]) -> MethodSpec:
    class_name = name.title().replace("_", "") if name in FAULTS else "Toy"
    return MethodSpec(
        name=name,
        summary="A toy",
        config=config,
        factory=f"sdtune_toy_methods:{class_name}",
        families=frozenset({"sd1"}),
    )
