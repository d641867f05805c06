"""A configuration before it is checked: nested nodes, each of which knows where it was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

Scalar = None | bool | int | float | str
Path = tuple[str, ...]


class Mark(Enum):
    """Values that act on other values."""

    DELETE = "---"


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it came from.

    Attributes:
        value: A scalar, a mapping, a tuple of items, or the mark that deletes.
        origin: Such as `run.yaml:3`, `--lr`, `train.lr=1e-4` or `default`.
        text: What was written, for an unquoted scalar; it is the value where the schema wants text.
    """

    value: Scalar | Mapping[str, Node] | tuple[Node, ...] | Mark
    origin: str
    text: str | None = None

    def child(self, key: str) -> Node | None:
        """Give what stands under `key`: a name, or the index of an item."""
        if isinstance(self.value, Mapping):
            return self.value.get(key)
        if isinstance(self.value, tuple) and key.isdecimal() and int(key) < len(self.value):
            return self.value[int(key)]
        return None

    def find(self, path: Path) -> Node | None:
        """Give what stands at `path`, or None."""
        node: Node | None = self
        for key in path:
            node = node.child(key) if node else None
        return node

    def children(self) -> Iterator[tuple[str, Node]]:
        """List names or indices with what stands under them."""
        if isinstance(self.value, Mapping):
            yield from self.value.items()
        elif isinstance(self.value, tuple):
            yield from ((str(index), item) for index, item in enumerate(self.value))


def escape(text: str) -> str:
    """Write text so that `${` in it is no reference."""
    return text.replace("${", "$${")


def from_plain(data: object, origin: str) -> Node:
    """Wrap plain Python data, all of it with one origin; text is taken as it is."""
    if isinstance(data, Mapping):
        return Node({str(key): from_plain(value, origin) for key, value in data.items()}, origin)
    if isinstance(data, list | tuple):
        return Node(tuple(from_plain(item, origin) for item in data), origin)
    if data is None or isinstance(data, bool | int | float):
        return Node(data, origin)
    return Node(escape(str(data)), origin)


def stamp(node: Node, origin: str) -> Node:
    """Give a node, and all below it, one origin."""
    if isinstance(node.value, Mapping):
        return replace(node, value={key: stamp(child, origin) for key, child in node.children()}, origin=origin)
    if isinstance(node.value, tuple):
        return replace(node, value=tuple(stamp(item, origin) for item in node.value), origin=origin)
    return replace(node, origin=origin)


def merge(low: Node, high: Node) -> Node:
    """Lay one tree over another: mappings merge, all else is replaced; an empty value leaves a mapping as it is."""
    if not isinstance(low.value, Mapping):
        return high
    if high.value is None:
        return low
    if not isinstance(high.value, Mapping):
        return high
    merged = dict(low.value)
    for key, node in high.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return Node(merged, high.origin)


def prune(node: Node) -> Node:
    """Carry out deletions; in a list, `---` is just text."""
    if isinstance(node.value, Mapping):
        kept = {key: prune(child) for key, child in node.value.items() if child.value is not Mark.DELETE}
        return replace(node, value=kept)
    if isinstance(node.value, tuple):
        return replace(node, value=tuple(prune(item) for item in node.value))
    return replace(node, value=node.value.value) if isinstance(node.value, Mark) else node


def put(here: Node | None, path: Path, node: Node, defaults: Node | None) -> Node:
    """Set, or with the mark delete, one value.

    Args:
        here: The tree so far.
        path: Names, and indices into lists.
        node: The new value.
        defaults: The defaults beside `here`, so that an item of a list nobody wrote can be changed.

    Raises:
        ConfigError: The path leads through a single value, or out of a list.
    """
    if not path:
        return node
    key, rest = path[0], path[1:]
    if here is None or here.value is None:
        here = defaults if defaults and isinstance(defaults.value, tuple) else Node({}, node.origin)
    child_defaults = defaults.child(key) if defaults else None
    if isinstance(here.value, tuple):
        return _put_item(here, key, put(_item(here, key, node), rest, node, child_defaults))
    if not isinstance(here.value, Mapping):
        raise ConfigError(f"{key!r} cannot be set in a single value ({here.value!r})", where=node.origin)
    children = dict(here.value)
    children[key] = put(children.get(key), rest, node, child_defaults)
    if children[key].value is Mark.DELETE:
        del children[key]
    return replace(here, value=children)


def _item(here: Node, key: str, node: Node) -> Node:
    item = here.child(key)
    if item is None:
        count = len(tuple(here.children()))
        raise ConfigError(f"no item {key!r} in a list of {count}; items count from 0", where=node.origin)
    return item


def _put_item(here: Node, key: str, item: Node) -> Node:
    items = [item if index == key else old for index, old in here.children()]
    return replace(here, value=tuple(item for item in items if item.value is not Mark.DELETE))
