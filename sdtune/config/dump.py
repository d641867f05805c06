"""Options back into text: resolved YAML that loads to equal options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdtune.config.scalars import printable, write_scalar
from sdtune.config.tree import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sdtune.config.base import Options
    from sdtune.config.tree import Path

DEFAULT = "default"


def to_dict(options: Options) -> dict[str, Any]:
    """Give all options as nested plain data, fit for JSON."""
    return options.model_dump(mode="json")


def leaves(data: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """List single values, and lists of single values as a whole, with their paths."""
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from leaves(value, (*path, key))
    elif _is_list_of_sections(data):
        for index, item in enumerate(data):
            yield from leaves(item, (*path, str(index)))
    else:
        yield path, data


def dump(options: Options, origins: Mapping[str, str] | None = None) -> str:
    """Write every option as YAML that loads back to equal options; comments tell origins other than the default."""
    return "".join(f"{line}\n" for line in _lines(to_dict(options), (), origins or {}))


def dump_given(options: Options, defaults: Mapping[str, Any], *, keep: str) -> str:
    """Write what differs from the defaults as YAML that loads back to equal options.

    Args:
        options: Options.
        defaults: Their defaults, as nested plain data.
        keep: An option that is written in any case.
    """
    data = to_dict(options)
    given = {keep: data[keep], **_changed(data, defaults)}
    return "".join(f"{line}\n" for line in _lines(given, (), {}))


def _changed(data: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in data.items():
        default = defaults.get(key)
        if isinstance(value, dict) and isinstance(default, dict):
            value = _changed(value, default)  # what is left of it
            default = {}
        if key not in defaults or value != default:
            changed[key] = value
    return changed


def write_flow(value: Any) -> str:
    """Write a value on one line, such that it reads back equal."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{write_scalar(key)}: {write_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(write_flow, value)) + "]"
    return write_scalar(escape(value) if isinstance(value, str) else value)


def _is_list_of_sections(data: Any) -> bool:
    return isinstance(data, list) and any(isinstance(item, dict) for item in data)


def _lines(data: dict[str, Any], path: Path, origins: Mapping[str, str]) -> Iterator[str]:
    for key, value in data.items():
        here = (*path, key)
        name = write_scalar(key)
        if isinstance(value, dict) and value:
            yield f"{name}:"
            yield from _indent(_lines(value, here, origins), "  ", "  ")
        elif _is_list_of_sections(value):
            yield f"{name}:"
            for index, item in enumerate(value):
                yield from _indent(_item(item, (*here, str(index)), origins), "  - ", "    ")
        else:
            yield f"{name}: {write_flow(value)}{_comment(origins.get('.'.join(here), DEFAULT))}"


def _item(item: Any, path: Path, origins: Mapping[str, str]) -> Iterator[str]:
    return _lines(item, path, origins) if isinstance(item, dict) and item else iter([write_flow(item)])


def _indent(lines: Iterator[str], first: str, rest: str) -> Iterator[str]:
    for index, line in enumerate(lines):
        yield (rest if index else first) + line


def _comment(origin: str) -> str:
    return "" if origin == DEFAULT else f"  # {printable(origin)}"
