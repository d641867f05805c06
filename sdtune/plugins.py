"""The registry of what plugins bring: read once from the entry points, then carried in click's context."""

from __future__ import annotations

import logging
import os
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import sdtune
from sdtune import loader
from sdtune.errors import ConfigError, Problems
from sdtune.loader import Plugin, PluginError, Source
from sdtune.specs import FamilySpec, MethodSpec, TaggerSpec, combine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    import click
    from pluggy import HookRelay

    from sdtune.api import Observer, Run

GROUP = "sdtune"
DISABLE = "SDTUNE_DISABLE_PLUGINS"
LOG = logging.getLogger(__name__)
Spec = TypeVar("Spec", MethodSpec, FamilySpec, TaggerSpec)


def load_registry() -> Registry:
    """Import every installed plugin that `SDTUNE_DISABLE_PLUGINS` does not name; a broken one is a warning."""
    import_module("sdtune.api")  # shared by all plugins, so none is charged with its import
    disabled = {name.strip() for name in os.environ.get(DISABLE, "").split(",")} - {""}
    sources = [_builtin(), *_installed()]
    for name in sorted(disabled - {source.name for source in sources}):
        LOG.warning("%s names '%s', but no such plugin is installed", DISABLE, name)
    plugins = [loader.disable(s) if s.name in disabled else loader.load(s) for s in sources]
    for plugin in plugins:
        if plugin.state == "broken":
            LOG.warning("plugin %s cannot be used: %s", plugin, plugin.problem)
        elif plugin.is_slow:
            LOG.warning(
                "plugin %s took %.1f s to import; heavy imports belong inside functions", plugin, plugin.import_s
            )
    return Registry(plugins)


class Registry:
    """What there is: methods, families, taggers, commands, observers.

    Example:
        registry = Registry.from_plugins([my_plugin])
        spec = registry.method("my_method")
    """

    def __init__(self, plugins: Iterable[Plugin]) -> None:
        self._plugins = tuple(plugins)

    @classmethod
    def from_plugins(cls, plugins: Iterable[object]) -> Registry:
        """Build a registry of sdtune's own families and the given plugin objects; the way of tests.

        Raises:
            PluginError: A plugin is broken.
        """
        sources = [_given(plugin) for plugin in plugins]
        loaded = [loader.load(source) for source in (_builtin(), *sources)]
        problems = Problems(PluginError)
        for plugin in loaded:
            if plugin.state == "broken":
                problems.add(f"plugin {plugin} cannot be used: {plugin.problem}")
        problems.raise_if_any()
        return cls(loaded)

    def report(self) -> tuple[Plugin, ...]:
        """List every plugin found, also broken and disabled ones; sdtune's own first, then by name."""
        return self._plugins

    def methods(self) -> Mapping[str, MethodSpec]:
        """Map the canonical name of each method to its description, by name.

        Raises:
            PluginError: Two plugins bring one name or alias.
        """
        return _unique(self._plugins, "method", lambda plugin: plugin.methods)

    def method(self, name: str) -> MethodSpec:
        """Find a method by name or alias, or several joined by `+`; case and `-` for `_` do not matter.

        An empty name means the usual method.

        Raises:
            ConfigError: There is no such method, or one is named twice.
            PluginError: The plugin of that name is broken, or two plugins bring one name.
        """
        parts = [self._method(part.strip()) for part in name.split("+")]
        if len({part.name for part in parts}) < len(parts):
            raise ConfigError(f"method {name!r} names one method twice")
        return parts[0] if len(parts) == 1 else combine(parts)

    def _method(self, name: str) -> MethodSpec:
        methods = self.methods()
        if not name:
            return self._usual_method()
        names = {alias: spec for spec in methods.values() for alias in (spec.name, *spec.aliases)}
        key = name.lower().replace("-", "_")
        if key not in names:
            self._explain_absence(key)
            raise ConfigError(f"method {name!r} is not known", hint=_suggest(key, names, list(methods)))
        return names[key]

    def _usual_method(self) -> MethodSpec:
        for spec in self.methods().values():
            if spec.is_usual:
                return spec
        there_is = ", ".join(self.methods()) or "no plugin brings one"
        raise ConfigError("no method is named", hint=f"give --method: {there_is}")

    def families(self) -> Mapping[str, FamilySpec]:
        """Map the name of each model family to its description, by name.

        Raises:
            PluginError: Two plugins bring one name.
        """
        return _unique(self._plugins, "model family", lambda plugin: plugin.families)

    def family(self, name: str) -> FamilySpec:
        """Find a family by name.

        Raises:
            ConfigError: There is no such family.
        """
        families = self.families()
        if name not in families:
            raise ConfigError(f"model family {name!r} is not known", hint=_suggest(name, families, list(families)))
        return families[name]

    def taggers(self) -> Mapping[str, TaggerSpec]:
        """Map the name of each tagger to its description, by name.

        Raises:
            PluginError: Two plugins bring one name.
        """
        return _unique(self._plugins, "tagger", lambda plugin: plugin.taggers)

    def detect_family(self, shapes: Mapping[str, tuple[int, ...]], path: Path) -> str | None:
        """Name the family of a model file by its tensor shapes, or None; installed plugins are asked before sdtune."""
        answers = self._ask(lambda hooks: hooks.sdtune_detect_family(shapes=shapes, path=path))
        return next((answer for answer in answers if answer is not None), None)

    def observers(self, run: Run) -> list[Observer]:
        """Collect the plugins' observers for a run; a plugin that fails is a warning."""
        answers = self._ask(lambda hooks: list(chain.from_iterable(hooks.sdtune_observers(run=run))))
        return list(chain.from_iterable(answers))

    def commands(self) -> list[click.Command]:
        """Collect the plugins' commands, by name; a plugin that fails is a warning."""
        answers = self._ask(lambda hooks: list(chain.from_iterable(hooks.sdtune_commands())))
        return sorted(chain.from_iterable(answers), key=lambda command: command.name or "")

    def _ask(self, question: Callable[[HookRelay], Any]) -> Iterator[Any]:
        """Ask the ready plugins in turn, the last one first as pluggy does; one that fails is skipped."""
        for plugin in reversed(self._plugins):
            if plugin.hooks is None:
                continue
            try:
                answer = question(plugin.hooks)
            except Exception as error:  # noqa: BLE001  # the plugin border: foreign code may raise anything
                LOG.warning("plugin %s fails: %s", plugin, loader.describe(error))
                continue
            yield answer

    def _explain_absence(self, name: str) -> None:
        for plugin in self._plugins:
            if plugin.name.replace("-", "_") != name:
                continue
            if plugin.state == "broken":
                raise PluginError(f"method {name!r} cannot be used, its plugin is broken: {plugin.problem}")
            if plugin.state == "disabled":
                raise ConfigError(
                    f"method {name!r} is switched off by {DISABLE}", hint=f"take '{plugin.name}' out of it"
                )


def _builtin() -> Source:
    def load() -> object:
        return import_module("sdtune.models.builtin")

    return Source(name="core", provider="sdtune", version=sdtune.__version__, load=load)


def _installed() -> Iterator[Source]:
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        dist = point.dist
        yield Source(
            name=point.name, provider=dist.name if dist else "", version=dist.version if dist else "", load=point.load
        )


def _given(plugin: object) -> Source:
    name = str(vars(plugin).get("__name__", type(plugin).__name__))
    return Source(name=name, provider="", version="", load=lambda: plugin)


def _unique(plugins: Iterable[Plugin], kind: str, specs: Callable[[Plugin], Iterable[Spec]]) -> Mapping[str, Spec]:
    """Map name to spec, and refuse names and aliases that two plugins bring."""
    owners: dict[str, Plugin] = {}
    found: dict[str, Spec] = {}
    problems = Problems(PluginError)
    for plugin in plugins:
        for spec in specs(plugin):
            found[spec.name] = spec
            for name in _names(spec):
                owner = owners.setdefault(name, plugin)
                if owner is not plugin:
                    hint = f"uninstall one, or set {DISABLE}={plugin.name}"
                    problems.add(f"{kind} {name!r} is brought by two plugins, {owner} and {plugin}", hint=hint)
    problems.raise_if_any()
    return dict(sorted(found.items()))


def _names(spec: MethodSpec | FamilySpec | TaggerSpec) -> tuple[str, ...]:
    return (spec.name, *spec.aliases) if isinstance(spec, MethodSpec) else (spec.name,)


def _suggest(name: str, candidates: Iterable[str], names: list[str]) -> str:
    close = get_close_matches(name, list(candidates), n=1)
    there_is = f"there is {', '.join(names)}" if names else "no plugin brings one"
    return f"did you mean {close[0]!r}? ({there_is})" if close else there_is
