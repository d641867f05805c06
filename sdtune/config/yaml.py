"""Strict YAML: YAML 1.2 values, no tags, no duplicate keys, bounded size, and a line number for everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from sdtune.config.scalars import printable, read_scalar
from sdtune.config.tree import Node
from sdtune.errors import ConfigError, Problems

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader  # libyaml is about 20 times faster
MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_ALIASES = 100
MAX_NODES = 10_000


def read_file(path: Path) -> Node:
    """Read a YAML file of options; each value's origin is `path:line`.

    Raises:
        ConfigError: The file is missing, too large, not UTF-8, or not the YAML we take.
    """
    name = str(path)
    if not path.is_file():
        raise ConfigError("not a file" if path.exists() else "no such file", where=name)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=name) from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"larger than {MAX_BYTES:,} bytes", where=name)
    return read_options(_decode(raw, name), name)


def _decode(raw: bytes, name: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError("not UTF-8 text", where=f"{name}:{line}", hint="save the file as UTF-8") from error


def read_options(text: str, name: str) -> Node:
    """Read a document that must be a mapping; an empty one has no options.

    Raises:
        ConfigError: It is not a mapping, or not the YAML we take.
    """
    node = read_document(text, name)
    if node.value is None:
        return Node({}, node.origin)
    if not isinstance(node.value, Mapping):
        raise ConfigError("expected lines such as 'method: NAME'", where=node.origin)
    return node


def read_document(text: str, name: str) -> Node:
    """Read a document of any kind; each value's origin is `name:line`.

    Raises:
        ConfigError: It is not the YAML we take; all duplicate keys and tags are reported together.
    """
    if control := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, control.start()) + 1
        raise ConfigError(f"not valid YAML: control character {control[0]!r}", where=f"{name}:{line}")
    try:
        return _Composer(yaml.parse(text, Loader=LOADER), name).read()
    except yaml.MarkedYAMLError as error:
        where = _place(name, error.problem_mark) if error.problem_mark else name
        hint = "indent with spaces, not tabs" if error.problem_mark and _is_tab(text, error.problem_mark) else ""
        raise ConfigError(f"not valid YAML: {error.problem}", where=where, hint=hint) from error


def _is_tab(text: str, mark: Any) -> bool:
    line = text.splitlines()[mark.line : mark.line + 1]
    return bool(line) and line[0][mark.column : mark.column + 1] == "\t"


def _place(name: str, mark: Any) -> str:
    return f"{name}:{mark.line + 1}:{mark.column + 1}"


@dataclass(frozen=True, slots=True)
class _Built:
    """A node with its size and height, all aliases followed."""

    node: Node
    size: int = 1
    height: int = 1


@dataclass(slots=True)
class _Composer:
    """Build nodes from parser events, which come one by one, so that limits are met before memory is."""

    events: Iterator[Any]
    name: str
    anchors: dict[str, _Built] = field(default_factory=dict)
    aliases: int = 0
    nodes: int = 0
    problems: Problems = field(default_factory=lambda: Problems(ConfigError))

    def read(self) -> Node:
        """Read the only document."""
        next(self.events)  # the start of the stream
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            return Node(None, f"{self.name}:1")
        node = self._compose(next(self.events), 1).node
        next(self.events)  # the end of the document
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._refuse("a second document; keep one", event)
        self.problems.raise_if_any()
        return node

    def _compose(self, event: Any, depth: int) -> _Built:
        if isinstance(event, yaml.AliasEvent):
            return self._follow(event, depth)
        if event.tag is not None:
            self.problems.add(
                f"tags are not allowed: {printable(event.tag)}", where=_place(self.name, event.start_mark)
            )
        if depth > MAX_DEPTH:
            self._refuse(f"nested deeper than {MAX_DEPTH} levels", event)
        if isinstance(event, yaml.ScalarEvent):
            built = _Built(self._scalar(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            built = self._sequence(event, depth)
        else:
            built = self._mapping(event, depth)
        self._count(event, 1)
        if event.anchor is not None:
            self.anchors[event.anchor] = built
        return built

    def _scalar(self, event: Any) -> Node:
        origin = self._origin(event)
        if not event.implicit[0]:
            return Node(event.value, origin)
        try:
            return Node(read_scalar(event.value), origin, event.value)
        except ConfigError as error:
            self._refuse(str(error), event)

    def _sequence(self, start: Any, depth: int) -> _Built:
        items = [self._compose(event, depth + 1) for event in self._until(yaml.SequenceEndEvent)]
        return self._join(Node(tuple(item.node for item in items), self._origin(start)), items)

    def _mapping(self, start: Any, depth: int) -> _Built:
        children: dict[str, Node] = {}
        values = []
        for event in self._until(yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                self._refuse("a key must be a single word or text", event)
            key, place = event.value, _place(self.name, event.start_mark)
            if key in children:
                self.problems.add(f"{printable(key)!r} is set twice, first at {children[key].origin}", where=place)
            values.append(self._compose(next(self.events), depth + 1))
            children[key] = replace(values[-1].node, origin=self._origin(event))
        return self._join(Node(children, self._origin(start)), values)

    def _follow(self, event: Any, depth: int) -> _Built:
        """Follow an alias; what it stands for counts in full, or a few lines could stand for a billion values."""
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            self._refuse(f"more than {MAX_ALIASES} aliases", event)
        if event.anchor not in self.anchors:
            self._refuse(f"no anchor '&{event.anchor}' is complete before this alias", event)
        built = self.anchors[event.anchor]
        if depth + built.height - 1 > MAX_DEPTH:
            self._refuse(f"nested deeper than {MAX_DEPTH} levels", event)
        self._count(event, built.size)
        return built

    def _until(self, end: type[yaml.Event]) -> Iterator[Any]:
        while not isinstance(event := next(self.events), end):
            yield event

    def _count(self, event: Any, size: int) -> None:
        self.nodes += size
        if self.nodes > MAX_NODES:
            self._refuse(f"more than {MAX_NODES:,} values", event)

    @staticmethod
    def _join(node: Node, parts: list[_Built]) -> _Built:
        return _Built(node, 1 + sum(part.size for part in parts), 1 + max((part.height for part in parts), default=0))

    def _origin(self, event: Any) -> str:
        return f"{self.name}:{event.start_mark.line + 1}"

    def _refuse(self, message: str, event: Any) -> NoReturn:
        self.problems.add(message, where=_place(self.name, event.start_mark))
        self.problems.raise_if_any()
        raise AssertionError
