"""Files that build on other files: `_base_`."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from pathlib import Path

from sdtune.config.tree import Node, merge
from sdtune.config.yaml import read_file
from sdtune.errors import ConfigError, Problems

BASE = "_base_"
MAX_FILES = 64


def read_with_bases(path: Path) -> Node:
    """Read a file over its bases. Deletions are kept as marks, for they also hold against what comes below.

    The file wins over its bases, and an earlier base wins over a later one.

    Raises:
        ConfigError: A file is missing or wrong, or files are each other's base.
    """
    return _Reader().read(path, ())


class _Reader:
    def __init__(self) -> None:
        self._count = 0

    def read(self, path: Path, above: tuple[Path, ...]) -> Node:
        self._count += 1
        if self._count > MAX_FILES:
            raise ConfigError(f"more than {MAX_FILES} files by {BASE}", where=str(path))
        tree = read_file(path)
        options = dict(tree.children())
        own = replace(tree, value={key: node for key, node in options.items() if key != BASE})
        if BASE not in options:
            return own
        return self._over_bases(own, options[BASE], path, (*above, path.resolve()))

    def _over_bases(self, own: Node, named: Node, path: Path, above: tuple[Path, ...]) -> Node:
        problems = Problems(ConfigError)
        bases = []
        for name in named.value if isinstance(named.value, tuple) else (named,):
            with problems.collect():
                bases.append(self._base(name, path, above))
        problems.raise_if_any()
        return reduce(merge, (*reversed(bases), own))

    def _base(self, name: Node, path: Path, above: tuple[Path, ...]) -> Node:
        if not isinstance(name.value, str) or not name.value:
            raise ConfigError(f"{BASE}: expected a path or a list of paths", where=name.origin)
        base = path.parent / Path(name.value).expanduser()
        if not base.is_file():
            raise ConfigError(f"{BASE}: no such file: {base}", where=name.origin)
        if base.resolve() in above:
            circle = " -> ".join(file.name for file in (*above, base))
            raise ConfigError(f"{BASE}: files are each other's base: {circle}", where=name.origin)
        return self.read(base, above)
