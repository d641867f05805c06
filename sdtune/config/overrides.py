"""Single options set from the command line: `train.lr=1e-4`, or by a flag such as `--lr`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sdtune.config.scalars import printable, read_scalar
from sdtune.config.tree import Node, Path, from_plain, stamp
from sdtune.config.yaml import MAX_DEPTH, read_document
from sdtune.errors import ConfigError

_OVERRIDE = re.compile(r"([\w-]+(?:\.[\w-]+)*)=(.*)", re.DOTALL)
_FLOW = ("[", "{", "'", '"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One option set by a flag.

    Attributes:
        option: Dotted name, e.g. `train.lr`.
        value: Plain data; text is taken as it is.
        flag: The flag, e.g. `--lr`; becomes the origin.
    """

    option: str
    value: object
    flag: str

    def parse(self) -> tuple[Path, Node]:
        """Give the path and the value."""
        return tuple(self.option.split(".")), from_plain(self.value, self.flag)


def is_override(word: str) -> bool:
    """Tell `a.b=c` from a file name."""
    return _OVERRIDE.fullmatch(word) is not None


def parse_override(word: str) -> tuple[Path, Node]:
    """Read `a.b=c`: the value is YAML where it begins with a bracket or a quote, else a plain scalar to its end.

    Raises:
        ConfigError: No name, no `=`, or a value that is not YAML.
    """
    origin = printable(word) if len(word) <= 100 else printable(word[:99]) + "…"
    match = _OVERRIDE.fullmatch(word)
    if match is None:
        raise ConfigError("expected NAME=VALUE, e.g. train.lr=1e-4", where=origin)
    path, text = tuple(match[1].split(".")), match[2].strip()
    if len(path) > MAX_DEPTH:
        raise ConfigError(f"nested deeper than {MAX_DEPTH} levels", where=origin)
    try:
        node = read_document(text, "") if text.startswith(_FLOW) else Node(read_scalar(text), origin, text)
    except ConfigError as error:
        message = error.problems[0].message
        raise ConfigError(f"{match[1]}: {message}", where=origin, hint="put text in quotes") from error
    return path, stamp(node, origin)
