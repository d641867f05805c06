"""From files, flags and overrides to checked options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from pydantic import Field, ValidationError, create_model

from sdtune.config.base import Options
from sdtune.config.describe import OptionTree, defaults_of, describe
from sdtune.config.dump import DEFAULT, leaves, to_dict
from sdtune.config.files import read_with_bases
from sdtune.config.fit import fit
from sdtune.config.overrides import parse_override
from sdtune.config.problems import translate
from sdtune.config.references import resolve
from sdtune.config.schema import CoreOptions
from sdtune.config.tree import Mark, Node, from_plain, prune, put
from sdtune.errors import ConfigError, Problems

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sdtune.config import tree as trees
    from sdtune.config.overrides import Setting
    from sdtune.specs import MethodSpec


METHOD = ("method",)


class MethodRegistry(Protocol):
    """What loading asks of the registry of plugins."""

    def methods(self) -> Mapping[str, MethodSpec]:
        """Give every method by its name."""

    def method(self, name: str) -> MethodSpec:
        """Give a method by its name or an alias, or raise ConfigError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Options of a run, and where each came from.

    Attributes:
        options: Checked options, with the method's section.
        spec: The method.
        origins: Dotted name of every option to `default`, `run.yaml:3`, `--lr` or `train.lr=1e-4`.
        tree: What was written, references resolved.
    """

    options: CoreOptions
    spec: MethodSpec
    origins: Mapping[str, str]
    tree: Node


@lru_cache(maxsize=64)  # one class for one method, so that options loaded twice compare equal
def compose_schema(spec: MethodSpec) -> type[CoreOptions]:
    """Add the method's section to the schema, as the field `spec.name`.

    Raises:
        ValueError: The method's name cannot be the name of a section.
    """
    if spec.name in CoreOptions.model_fields or not spec.name.isidentifier():
        raise ValueError(f"a method cannot be named {spec.name!r}: its section would clash")
    section = (spec.config, Field(default_factory=spec.config, description=spec.summary))
    name = f"{spec.name.title().replace('_', '')}RunOptions"
    return create_model(name, __base__=CoreOptions, __doc__=f"A whole run of {spec.name}.", **{spec.name: section})  # type: ignore[call-overload, no-any-return]  # the field's name is known at run time only


def method_options(options: CoreOptions) -> Options:
    """Give the method's own section of loaded options."""
    section = dict(options)[options.method]
    assert isinstance(section, Options)
    return section


def load(
    registry: MethodRegistry,
    file: Path | None = None,
    *,
    flags: Sequence[Setting] = (),
    overrides: Sequence[str] = (),
) -> Loaded:
    """Load options; defaults < `_base_` < file < flags < overrides.

    Args:
        registry: Where methods are looked up.
        file: A YAML file; None: only flags and overrides.
        flags: Options given as flags.
        overrides: Words such as `train.lr=1e-4`; `NAME=---` sets the default again.

    Raises:
        ConfigError: With every problem there is, each with its place.
    """
    problems = Problems(ConfigError)
    tree = Node({}, "")
    with problems.collect():
        tree = read_with_bases(file) if file else tree
    settings = _settings(flags, overrides, problems)
    problems.raise_if_any()
    chosen = _find_method(tree, settings, registry, problems)
    spec, settings = _follow_switch(chosen, tree, settings, registry)
    schema = compose_schema(spec) if spec else CoreOptions
    options, defaults = describe(schema), from_plain(defaults_of(schema), DEFAULT)
    tree = _apply(tree, settings, defaults, problems)
    if chosen is not None and chosen is not spec:
        tree = _without_empty(tree, chosen.name)
    tree = _drop_other_methods(tree, spec, registry, problems)
    tree, failed = resolve(tree, defaults, problems)
    checked = _validate(tree, spec, options, failed, problems)
    problems.raise_if_any()
    assert spec is not None
    assert checked is not None
    return Loaded(options=checked, spec=spec, origins=_origins(checked, tree), tree=tree)


def _settings(flags: Sequence[Setting], overrides: Sequence[str], problems: Problems) -> list[tuple[trees.Path, Node]]:
    settings = [flag.parse() for flag in flags]
    for word in overrides:
        with problems.collect():
            settings.append(parse_override(word))
    return settings


def _find_method(
    tree: Node, settings: Sequence[tuple[trees.Path, Node]], registry: MethodRegistry, problems: Problems
) -> MethodSpec | None:
    written = [tree.find(METHOD), *(node for path, node in settings if path == METHOD)]
    default = Node(CoreOptions.model_fields["method"].default, DEFAULT)
    node = next((node for node in reversed(written) if node and node.value is not Mark.DELETE), default)
    try:
        return registry.method(node.value if isinstance(node.value, str) else node.text or "")
    except ConfigError as error:
        for problem in error.problems:
            problems.add(problem.message, where=problem.where or node.origin, hint=problem.hint)
        return None


def _follow_switch(
    spec: MethodSpec | None, tree: Node, settings: list[tuple[trees.Path, Node]], registry: MethodRegistry
) -> tuple[MethodSpec | None, list[tuple[trees.Path, Node]]]:
    """Go on with the method that a switch of the chosen one means, where it is on; the switch itself is done with."""
    for option, other in spec.switches if spec else ():
        path = (spec.name, option) if spec else ()
        written = [tree.find(path), *(node for place, node in settings if place == path)]
        last = next((node for node in reversed(written) if node), None)
        if last and last.value is True:
            return registry.method(other), [*settings, (path, Node(Mark.DELETE, last.origin))]
    return spec, settings


def _without_empty(tree: Node, name: str) -> Node:
    """Leave a section out where nothing is in it."""
    return replace(tree, value={key: node for key, node in tree.children() if key != name or node.value != {}})


def _apply(tree: Node, settings: Sequence[tuple[trees.Path, Node]], defaults: Node, problems: Problems) -> Node:
    tree = prune(tree)
    for path, node in settings:
        with problems.collect():
            tree = put(tree, path, node, defaults)
    return prune(tree)


def _drop_other_methods(tree: Node, spec: MethodSpec | None, registry: MethodRegistry, problems: Problems) -> Node:
    """Report sections of other methods; without a method, every section that is not the core's may be right."""
    kept = {}
    for name, node in tree.children():
        if name in CoreOptions.model_fields or (spec and name == spec.name):
            kept[name] = node
        elif spec and name in registry.methods():
            message = f"{name}: section of another method; this run's method is {spec.name!r}"
            problems.add(message, where=node.origin)
        elif spec and name in spec.aliases:
            problems.add(f"{name}: unknown option", hint=f"the section is called {spec.name!r}", where=node.origin)
        elif spec or not isinstance(node.value, Mapping):
            kept[name] = node
    if spec and spec.name not in kept:  # a section may have options that must be given
        kept[spec.name] = Node({}, (tree.find(METHOD) or tree).origin)
    return replace(tree, value=kept)


def _validate(
    tree: Node, spec: MethodSpec | None, options: OptionTree, failed: set[trees.Path], problems: Problems
) -> CoreOptions | None:
    data = fit(tree, options)
    if spec:
        data["method"] = spec.name
    try:
        return (compose_schema(spec) if spec else CoreOptions).model_validate(data)
    except ValidationError as error:
        for problem in translate(error, tree, options, failed):
            problems.add(problem.message, where=problem.where, hint=problem.hint)
        return None


def _origins(options: CoreOptions, tree: Node) -> dict[str, str]:
    return {".".join(path): _origin(tree.find(path)) for path, _ in leaves(to_dict(options))}


def _origin(node: Node | None) -> str:
    """Give a value's origin; items of a list may have several."""
    if node is None:
        return DEFAULT
    return ", ".join(dict.fromkeys(_origin(item) for _, item in node.children())) or node.origin
