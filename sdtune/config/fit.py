"""What was written, read as the schema means it: `name: 007` is text where text is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdtune.config.describe import OptionTree
    from sdtune.config.tree import Node, Path

_NUMBERS = {"integer", "number"}


def fit(node: Node, options: OptionTree, path: Path = ()) -> Any:
    """Give plain data for validation: a section with nothing in it is empty, unquoted text is text.

    Args:
        node: What stands at `path`.
        options: The schema in words.
        path: Names and indices down to `node`.
    """
    if isinstance(node.value, Mapping):
        return {key: fit(child, options, (*path, key)) for key, child in node.children()}
    if isinstance(node.value, tuple):
        return [fit(item, options, (*path, key)) for key, item in node.children()]
    doc = options.find(path)
    if doc is None:
        return node.value
    if node.value is None and doc.is_section and doc.kinds == {"object"}:
        return {}
    return node.text if node.text is not None and _is_meant_as_text(node, doc.kinds) else node.value


def _is_meant_as_text(node: Node, kinds: frozenset[str]) -> bool:
    if node.value is None:
        return node.text == "" and "string" in kinds and "null" not in kinds
    if isinstance(node.value, bool):  # true is no number, though Python has it as 1
        return bool(kinds) and "boolean" not in kinds
    return "string" in kinds and not kinds & _NUMBERS
