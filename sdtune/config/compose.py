"""From files, flags and overrides to checked options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

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
from sdtune.config.tree import Mark, Node, from_plain, merge, prune, put
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
        """Give a method by its name or an alias, the usual one for an empty name, or raise ConfigError."""


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
    """Add the method's section to the schema, as the field `spec.name`; of several methods, each one's.

    Raises:
        ValueError: The method's name cannot be the name of a section.
    """
    for part in spec.sections:
        if part.name in CoreOptions.model_fields or not part.name.isidentifier():
            raise ValueError(f"a method cannot be named {part.name!r}: its section would clash")
    sections: dict[str, tuple[type, Any]] = {
        part.name: (part.config, Field(default_factory=part.config, description=part.summary)) for part in spec.sections
    }
    about = CoreOptions.model_fields["method"].description
    sections["method"] = (str, Field(default=spec.name, description=about))
    name = f"{spec.name.title().replace('_', '').replace('+', '')}RunOptions"
    return create_model(name, __base__=CoreOptions, __doc__=f"A whole run of {spec.name}.", **sections)  # type: ignore[call-overload, no-any-return]  # the field's name is known at run time only


def method_options(options: CoreOptions, spec: MethodSpec) -> Options:
    """Give a method's own section of loaded options."""
    section = dict(options)[spec.name]
    assert isinstance(section, Options)
    return section


def load(
    registry: MethodRegistry,
    file: Path | None = None,
    *,
    flags: Sequence[Setting] = (),
    overrides: Sequence[str] = (),
    saved: Path | None = None,
) -> Loaded:
    """Load options; defaults < saved < `_base_` < file < flags < overrides.

    Args:
        registry: Where methods are looked up.
        file: A YAML file; None: only flags and overrides.
        flags: Options given as flags.
        overrides: Words such as `train.lr=1e-4`; `NAME=---` sets the default again.
        saved: Options of a run that goes on, a YAML file; its method stays.

    Raises:
        ConfigError: With every problem there is, each with its place.
    """
    problems = Problems(ConfigError)
    tree = Node({}, "")
    with problems.collect():
        tree = below = read_with_bases(saved) if saved else tree
        tree = merge(tree, read_with_bases(file)) if file else tree
    settings = _settings(flags, overrides, problems)
    problems.raise_if_any()
    named = _find_method(tree, settings, registry, problems)
    spec = _follow_switch(named, tree, settings, registry) if named else None
    if saved and spec:
        _check_method_stays(_find_method(below, (), registry, problems), spec)
    schema = compose_schema(spec) if spec else CoreOptions
    options, defaults = describe(schema), from_plain(defaults_of(schema), DEFAULT)
    tree = _apply(tree, settings, defaults, problems)
    tree = _drop_switches(tree, named, spec)
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
    default = Node("", DEFAULT)
    node = next((node for node in reversed(written) if node and node.value is not Mark.DELETE), default)
    try:
        return registry.method(node.value if isinstance(node.value, str) else node.text or "")
    except ConfigError as error:
        for problem in error.problems:
            problems.add(problem.message, where=problem.where or node.origin, hint=problem.hint)
        return None


def _follow_switch(
    spec: MethodSpec, tree: Node, settings: Sequence[tuple[trees.Path, Node]], registry: MethodRegistry
) -> MethodSpec:
    """Give the method that a true switch of the named one stands for, or the named one."""
    for option, other in spec.switches:
        path = (spec.name, option)
        written = [node for node in (tree.find(path), *(node for own, node in settings if own == path)) if node]
        if written and written[-1].value is True:
            return registry.method(other)
    return spec


def _check_method_stays(saved: MethodSpec | None, spec: MethodSpec) -> None:
    if saved is not None and saved.name != spec.name:
        raise ConfigError(
            f"a run cannot change method {saved.name} -> {spec.name}", hint="start a new run in another --output"
        )


def _drop_switches(tree: Node, named: MethodSpec | None, spec: MethodSpec | None) -> Node:
    """Take the switch that led from one method to the other out of the options; what is left there is the user's."""
    if named is None or named is spec:
        return tree
    kept = dict(tree.children())
    section = {key: node for key, node in kept.pop(named.name).children() if key not in dict(named.switches)}
    if section:
        kept[named.name] = replace(tree, value=section)
    return replace(tree, value=kept)


def _apply(tree: Node, settings: Sequence[tuple[trees.Path, Node]], defaults: Node, problems: Problems) -> Node:
    tree = prune(tree)
    for path, node in settings:
        with problems.collect():
            tree = put(tree, path, node, defaults)
    return prune(tree)


def _drop_other_methods(tree: Node, spec: MethodSpec | None, registry: MethodRegistry, problems: Problems) -> Node:
    """Report sections of other methods; without a method, every section that is not the core's may be right."""
    kept = {}
    own = {part.name for part in spec.sections} if spec else set()
    aliases = {alias: part.name for part in spec.sections for alias in part.aliases} if spec else {}
    for name, node in tree.children():
        if name in CoreOptions.model_fields or name in own:
            kept[name] = node
        elif spec and name in registry.methods():
            message = f"{name}: section of another method; this run's method is {spec.name!r}"
            problems.add(message, where=node.origin)
        elif name in aliases:
            problems.add(f"{name}: unknown option", hint=f"the section is called {aliases[name]!r}", where=node.origin)
        elif spec or not isinstance(node.value, Mapping):
            kept[name] = node
    for name in own - kept.keys():  # a section may have options that must be given
        kept[name] = Node({}, (tree.find(METHOD) or tree).origin)
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
