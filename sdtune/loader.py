"""One plugin, imported and questioned so that whatever goes wrong with it stays with it."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from time import process_time
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pluggy

from sdtune import hookspecs
from sdtune.errors import SdtuneError
from sdtune.specs import FamilySpec, MethodSpec, TaggerSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SLOW_IMPORT_S = 0.2
State = Literal["ready", "broken", "disabled"]
T = TypeVar("T")


class PluginError(SdtuneError):
    """A plugin that cannot be used (exit 4)."""

    exit_code = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A plugin before its import.

    Attributes:
        name: Name of its entry point.
        provider: Distribution that brings it.
        version: Version of that distribution.
        load: Imports it.
    """

    name: str
    provider: str
    version: str
    load: Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A plugin as it was found.

    Attributes:
        name: Name of its entry point.
        provider: Distribution that brings it.
        version: Version of that distribution.
        state: `ready`, `broken` (it says why in `problem`) or `disabled` (never imported).
        problem: What is wrong, one line; empty when nothing is.
        import_s: Seconds of CPU time its import took: a busy machine makes no plugin look slow.
        methods: Methods it brings.
        families: Model families it brings.
        taggers: Taggers it brings.
        hooks: Asks this plugin alone; None unless it is ready.
    """

    name: str
    provider: str
    version: str
    state: State
    problem: str = ""
    import_s: float = 0.0
    methods: tuple[MethodSpec, ...] = ()
    families: tuple[FamilySpec, ...] = ()
    taggers: tuple[TaggerSpec, ...] = ()
    hooks: pluggy.HookRelay | None = None

    def __str__(self) -> str:
        return " ".join(
            part for part in (f"'{self.name}'", self.provider and f"of {self.provider}", self.version) if part
        )

    @property
    def is_slow(self) -> bool:
        """Tell whether its import is too long for a command line that starts at once."""
        return self.import_s > SLOW_IMPORT_S


def disable(source: Source) -> Plugin:
    """Note a plugin without importing it."""
    return Plugin(name=source.name, provider=source.provider, version=source.version, state="disabled")


def load(source: Source) -> Plugin:
    """Import a plugin and ask what it brings; a failure of any kind gives a `broken` plugin that says why."""
    start = process_time()
    try:
        plugin = source.load()
        import_s = process_time() - start
        hooks = _connect(plugin, source.name)
        return Plugin(
            name=source.name,
            provider=source.provider,
            version=source.version,
            state="ready",
            import_s=import_s,
            methods=collect(hooks.sdtune_methods(), MethodSpec),
            families=collect(hooks.sdtune_families(), FamilySpec),
            taggers=collect(hooks.sdtune_taggers(), TaggerSpec),
            hooks=hooks,
        )
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the plugin border: foreign code may raise anything
        return Plugin(
            name=source.name,
            provider=source.provider,
            version=source.version,
            state="broken",
            problem=describe(error),
            import_s=process_time() - start,
        )


def collect(answers: Iterable[Iterable[Any]], kind: type[T]) -> tuple[T, ...]:
    """Flatten a hook's answers.

    Raises:
        PluginError: Something is not a `kind`.
    """
    items = tuple(item for answer in answers for item in answer)
    for item in items:
        if not isinstance(item, kind):
            raise PluginError(f"gives {item!r} where a {kind.__name__} belongs")
    return items


def describe(error: BaseException) -> str:
    """Tell an exception in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"


def _connect(plugin: object, name: str) -> pluggy.HookRelay:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    known = [caller for caller in vars(manager.hook) if caller.startswith("sdtune_")]
    manager.register(plugin, name)
    callers = manager.get_hookcallers(plugin) or []
    if not callers:
        raise PluginError("answers no hook; is @hookimpl missing?")
    for caller in callers:
        if not caller.has_spec() and not all(impl.optionalhook for impl in caller.get_hookimpls()):
            close = get_close_matches(caller.name, known, n=1)
            raise PluginError(
                f"answers an unknown hook {caller.name!r}" + (f"; did you mean {close[0]!r}?" if close else "")
            )
    return manager.hook
