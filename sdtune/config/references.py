"""References between options: `${a.b}`, and arithmetic: `${eval:512*768}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sdtune.config.arithmetic import calculate
from sdtune.config.scalars import write_scalar
from sdtune.config.tree import Node, Path, stamp
from sdtune.errors import ConfigError, Problems

MAX_VISITS = 10_000
MAX_TEXT = 100_000
_EXPRESSION = re.compile(r"\$\$\{|\$\{((?:[^${}]|\$\{[^${}]*\})*)\}")
_NAME = re.compile(r"[\w-]+(\.[\w-]+)*")
_EVAL = ("eval:", "hcp.eval:")


def resolve(tree: Node, defaults: Node, problems: Problems) -> tuple[Node, set[Path]]:
    """Replace every reference by what it stands for; options that are not written stand for their defaults.

    Args:
        tree: What was written.
        defaults: The default of every option.
        problems: Collects what is wrong; options concerned keep their text.

    Returns:
        The new tree, and the paths of options that could not be resolved.
    """
    resolver = _Resolver(tree, defaults, problems)
    return resolver.walk(tree, ()), resolver.failed


@dataclass(slots=True)
class _Resolver:
    tree: Node
    defaults: Node
    problems: Problems
    failed: set[Path] = field(default_factory=set)
    visits: int = 0

    def walk(self, node: Node, path: Path) -> Node:
        """Resolve everything below `node`, noting what fails and going on."""
        if isinstance(node.value, Mapping | tuple):
            return _with_children(node, {key: self.walk(child, (*path, key)) for key, child in node.children()})
        try:
            return stamp(self._resolve(node, path, ()), node.origin)
        except ConfigError as error:
            self.failed.add(path)
            self.problems.add(f"{'.'.join(path)}: {error}", where=node.origin)
            return node

    def _resolve(self, node: Node, path: Path, active: tuple[Path, ...]) -> Node:
        """Resolve `node`, which stands at `path`; `active` are the paths that wait for it."""
        self.visits += bool(active)
        if self.visits > MAX_VISITS:
            raise ConfigError("references stand for too many values")
        if isinstance(node.value, Mapping | tuple):
            children = {key: self._resolve(child, (*path, key), active) for key, child in node.children()}
            return _with_children(node, children)
        if not isinstance(node.value, str) or "${" not in node.value:
            return node
        if path in active:
            circle = " -> ".join(".".join(step) for step in (*active[active.index(path) :], path))
            raise ConfigError(f"references go round in a circle: {circle}")
        return self._expand(node, node.value, (*active, path))

    def _expand(self, node: Node, text: str, active: tuple[Path, ...]) -> Node:
        whole = _EXPRESSION.fullmatch(text)
        if whole and whole[1] is not None:
            return self._look_up(whole[1], active)
        expanded = self._interpolate(text, active)
        if len(expanded) > MAX_TEXT:
            raise ConfigError("references stand for too much text")
        return Node(expanded, node.origin)

    def _interpolate(self, text: str, active: tuple[Path, ...]) -> str:
        if "${" in _EXPRESSION.sub("", text):
            raise ConfigError("'${' without its '}'; write '$${' for a plain '${'")
        return _EXPRESSION.sub(
            lambda match: "${" if match[1] is None else _as_text(self._look_up(match[1], active), match[0]), text
        )

    def _look_up(self, inner: str, active: tuple[Path, ...]) -> Node:
        for prefix in _EVAL:
            if inner.startswith(prefix):
                formula = self._interpolate(inner.removeprefix(prefix), active)
                return Node(calculate(formula.strip().strip("\"'")), "")
        if not _NAME.fullmatch(inner):
            raise ConfigError(f"{inner!r} is not the name of an option, nor eval:...")
        path = tuple(inner.split("."))
        return self._resolve(self._find(path, active), path, active)

    def _find(self, path: Path, active: tuple[Path, ...]) -> Node:
        """Find an option, also through references on the way to it."""
        node: Node | None = self.tree
        for depth, key in enumerate(path):
            child = node.child(key) if node else None
            if child is not None and depth + 1 < len(path):
                child = self._resolve(child, path[: depth + 1], active) if isinstance(child.value, str) else child
            node = child
        node = node or self.defaults.find(path)
        if node is None:
            raise ConfigError(f"no option {'.'.join(path)!r} to refer to")
        return node


def _with_children(node: Node, children: dict[str, Node]) -> Node:
    return replace(node, value=tuple(children.values()) if isinstance(node.value, tuple) else children)


def _as_text(node: Node, source: str) -> str:
    if isinstance(node.value, Mapping | tuple):
        raise ConfigError(f"{source} is not a single value, and cannot stand inside text")
    if isinstance(node.value, str):
        return node.value
    return node.text or write_scalar(node.value)
