"""What pydantic finds wrong, in short plain words with the place where the user wrote it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdtune.config.scalars import printable, write_scalar
from sdtune.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from sdtune.config.describe import OptionTree
    from sdtune.config.tree import Node, Path

MAX_PROBLEMS = 100
_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "tuple": "a list",
    "list": "a list",
    "set": "a list",
    "model": "a section",
    "model_attributes": "a section",
    "dict": "a section",
    "none": "null",
}
_RULES = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must fit the pattern {pattern}",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "value_error": "{error}",
    "assertion_error": "{error}",
}
_TAG_ERRORS = ("union_tag_invalid", "union_tag_not_found")
_TYPE_ERROR = re.compile(r"(\w+?)_(type|parsing|parsing_size|from_float|number)")


def translate(error: ValidationError, tree: Node, options: OptionTree, skip: Collection[Path] = ()) -> list[Problem]:
    """Give one problem for each option that is wrong, at most 100.

    Args:
        error: What pydantic raised for the plain data of `tree`.
        tree: What was written, with origins.
        options: The schema in words.
        skip: Options whose problem was told before.
    """
    by_path: dict[Path, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        if (path := _path(detail, tree)) not in skip:
            by_path.setdefault(path, []).append(detail)
    problems = [_problem(path, details, tree, options) for path, details in list(by_path.items())[:MAX_PROBLEMS]]
    if len(by_path) > MAX_PROBLEMS:
        problems.append(Problem(message=f"and {len(by_path) - MAX_PROBLEMS} more"))
    return problems


def display(path: Iterable[str]) -> str:
    """Write a path for a message."""
    return printable(".".join(path))


def _path(detail: ErrorDetails, tree: Node) -> Path:
    """Find where the user wrote it: pydantic also names the branch of a union, which is in no file."""
    path: Path = ()
    node: Node | None = tree
    for index, step in enumerate(detail["loc"]):
        child = node.child(str(step)) if node else None
        is_last = index + 1 == len(detail["loc"])
        if child or (is_last and detail["type"] == "missing"):
            path, node = (*path, str(step)), child
    return (*path, _tag_name(detail)) if detail["type"] in _TAG_ERRORS else path


def _problem(path: Path, details: list[ErrorDetails], tree: Node, options: OptionTree) -> Problem:
    detail = next((detail for detail in details if not _expected(detail)), details[0])
    where = _where(path, tree)
    if detail["type"] == "extra_forbidden":
        return Problem(message=f"{display(path)}: unknown option", hint=_hint(path, options), where=where)
    if detail["type"] in ("missing", "union_tag_not_found"):
        return Problem(message=f"{display(path)}: must be given", where=where)
    expected = " or ".join(dict.fromkeys(filter(None, map(_expected, details))))
    rule = _rule(detail) if not _expected(detail) else f"expected {expected}"
    hint = _close_choice(detail) if len(details) == 1 else ""
    value = detail["ctx"]["tag"] if detail["type"] in _TAG_ERRORS else detail["input"]
    return Problem(message=f"{display(path)}: {rule}{_got(value)}", hint=hint, where=where)


def _where(path: Path, tree: Node) -> str:
    """Give the origin of an option, or of the nearest section around it that was written."""
    for length in range(len(path), -1, -1):
        if node := tree.find(path[:length]):
            return node.origin if length else ""
    return ""


def _hint(path: Path, options: OptionTree) -> str:
    nested = tuple(path[-1].split("."))
    if len(nested) > 1 and options.find((*path[:-1], *nested)):
        return f"in a file write {nested[-1]!r} indented below '{'.'.join(nested[:-1])}:'"
    if options.find(path):
        return "it belongs to another choice made in this section"
    meant = options.suggest(path)
    return f"did you mean {meant!r}?" if meant else ""


def _expected(detail: ErrorDetails) -> str:
    """Say what type was expected; '' when the type was right."""
    if detail["type"] in ("literal_error", "enum"):
        return f"one of {detail['ctx']['expected']}".replace("'", "").replace(" or ", ", ")
    if detail["type"] == "union_tag_invalid":
        return f"one of {detail['ctx']['expected_tags']}".replace("'", "")
    match = _TYPE_ERROR.fullmatch(detail["type"])
    return _EXPECTED.get(match[1], "") if match else ""


def _rule(detail: ErrorDetails) -> str:
    context = {key: _number(value) for key, value in detail.get("ctx", {}).items()}
    if detail["type"] in _RULES:
        return _RULES[detail["type"]].format(**context)
    return detail["msg"].replace("Input should be", "must be")


def _tag_name(detail: ErrorDetails) -> str:
    return str(detail["ctx"]["discriminator"]).strip("'")


def _number(value: Any) -> str:
    """Write 1.0 as 1, as the user would."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _close_choice(detail: ErrorDetails) -> str:
    if detail["type"] not in ("literal_error", "enum"):
        return ""
    choices = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
    close = difflib.get_close_matches(str(detail["input"]), choices, n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def _got(value: object) -> str:
    if isinstance(value, Mapping):
        return ""
    if isinstance(value, list | tuple):
        return f", got a list of {len(value)}"
    if not isinstance(value, str):
        return f", got {write_scalar(value)}"
    return f", got {value!r}" if len(value) <= 60 else f", got {value[:59] + '…'!r}"
