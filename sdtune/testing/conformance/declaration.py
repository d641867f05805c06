"""Checks of what a plugin declares, before anything is trained."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from pydantic import ValidationError

from sdtune.config.base import Options
from sdtune.config.compose import load, method_options
from sdtune.config.describe import describe
from sdtune.errors import ModelError
from sdtune.hookspecs import hookimpl
from sdtune.specs import FamilySpec
from sdtune.testing.conformance.compare import expect, expect_none
from sdtune.train.assembly.assembling import assemble
from sdtune.train.saving.folder import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from sdtune.models.base import DiffusionModel, ModelSource
    from sdtune.testing.conformance.subject import Subject

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "safetensors")
STRANGE = "a_family_nobody_knows"


def imports_nothing_heavy(subject: Subject, folder: Path) -> None:
    """Import the plugin in a process of its own, and ask for its methods."""
    names = [
        plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__module__ for plugin in subject.plugins
    ]
    done = _import(tuple(names))
    expect(done.returncode == 0, f"the plugin cannot be imported: {done.stderr.strip()[-300:]}")
    expect_none(done.stdout.split(), "importing the plugin imports heavy packages; import them in functions")


def describes_its_options(subject: Subject, folder: Path) -> None:
    """Look for options without a text, at every depth."""
    options = describe(subject.spec.config)
    expect_none((doc.name for doc in options if not doc.description), "options without a docstring")


def bounds_its_options(subject: Subject, folder: Path) -> None:
    """Look for numbers that may be anything."""
    numbers = (doc for doc in describe(subject.spec.config) if doc.kinds & {"integer", "number"} and not doc.choices)
    free = (doc.name for doc in numbers if not doc.bounds and "string" not in doc.kinds)
    expect_none(free, "numbers without bounds; use Annotated[float, Field(ge=...)]")


def freezes_its_options(subject: Subject, folder: Path) -> None:
    """Build the options, and try to change them."""
    config = subject.spec.config
    expect(issubclass(config, Options), f"{config.__name__} is no sdtune.api.Options")
    loaded = load(subject.registry(), overrides=subject.overrides(folder))
    options = method_options(loaded.options, loaded.spec)
    expect_none(set(subject.spec.flags) - config.model_fields.keys(), "flags that are no options")
    for name, value in options:
        try:
            setattr(options, name, value)
        except ValidationError:
            continue
        expect(False, f"{config.__name__}.{name} can be changed")


def has_defaults(subject: Subject, folder: Path) -> None:
    """Build the options from nothing: the help, `config explain` and templates do."""
    required = (name for name, field in subject.spec.config.model_fields.items() if field.is_required())
    expect_none(required, "options without a default")
    subject.spec.config()


def refuses_other_families(subject: Subject, folder: Path) -> None:
    """Give it a model of a family it does not name."""
    registry = subject.registry(_StrangeFamily())
    loaded = load(registry, overrides=subject.overrides(folder, f"model.family={STRANGE}"))
    try:
        assemble(loaded, registry, RunFolder(folder))
    except ModelError as error:
        expect(STRANGE in str(error), f"the message does not name the family: {error}")
        return
    expect(False, "a family that the method does not name is accepted")


def open_strange(source: ModelSource) -> DiffusionModel:
    """Open a model that says it is of a family nobody knows."""
    from sdtune.models.sd import StableDiffusion1

    model = StableDiffusion1(source)
    model.family = STRANGE
    return model


@cache
def _import(names: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Import modules in a process, once for all families; it prints the heavy packages that came with them."""
    code = (
        "import importlib, sys\n"
        f"for plugin in map(importlib.import_module, {names}):\n"
        "    getattr(plugin, 'sdtune_methods', list)()\n"
        f"print(*sorted(set({HEAVY}) & set(sys.modules)))"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)


class _StrangeFamily:
    __name__ = "strange"

    @hookimpl
    def sdtune_families(self) -> list[FamilySpec]:
        return [FamilySpec(name=STRANGE, summary="For tests", factory=f"{__name__}:open_strange")]
