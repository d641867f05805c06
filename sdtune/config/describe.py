"""Every option of a schema in plain words: the one source of help, reference page, template and did-you-mean."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sdtune.config.base import Options
from sdtune.config.scalars import write_scalar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sdtune.config.tree import Path

INDEX = "N"
KEY = "KEY"
TOO_LARGE_TO_TELL = 2**53
_TYPES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}
_PLURALS = {"integer": "whole numbers", "number": "numbers", "string": "texts"}
JsonSchema = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionDoc:
    """One option or section.

    Attributes:
        path: Its names; `N` stands for the index of an item, `KEY` for a free name.
        kinds: JSON types it takes: string, integer, number, boolean, null, array, object.
        type: What it takes, in words.
        bounds: Limits in words; empty when there are none.
        choices: The only values allowed; empty when the choice is free.
        default: Plain data; meaningless when `is_required`.
        is_required: It has no default.
        is_section: It has options of its own.
        description: One or two sentences.
    """

    path: Path
    kinds: frozenset[str]
    type: str
    bounds: str = ""
    choices: tuple[str, ...] = ()
    default: object = None
    is_required: bool = False
    is_section: bool = False
    description: str = ""

    @property
    def name(self) -> str:
        """Dotted name."""
        return ".".join(self.path)

    @property
    def takes(self) -> str:
        """What it takes, in words, e.g. `whole number, at least 1, or null`."""
        words = self.type.replace("choice", f"one of {', '.join(self.choices)}")
        limited = ", ".join(filter(None, (words.removesuffix(" or null"), self.bounds)))
        if not words.endswith(" or null"):
            return limited
        return f"{limited}, or null" if "," in limited else f"{limited} or null"

    @property
    def is_item(self) -> bool:
        """It is the item of a list or of a free mapping."""
        return self.path[-1] in (INDEX, KEY)


class OptionTree:
    """All options of a schema, by path."""

    def __init__(self, docs: Iterable[OptionDoc]) -> None:
        self._docs: dict[Path, OptionDoc] = {}
        for doc in docs:
            known = self._docs.get(doc.path)
            self._docs[doc.path] = _join(known, doc) if known else doc

    def __iter__(self) -> Iterator[OptionDoc]:
        """List options and sections in the order of the schema, without bare items."""
        return (doc for doc in self._docs.values() if not doc.is_item)

    def including(self, other: OptionTree) -> OptionTree:
        """Give all options of this schema, then those only the other has."""
        return OptionTree(
            (self._docs | {path: doc for path, doc in other._docs.items() if path not in self._docs}).values()
        )

    def find(self, path: Path) -> OptionDoc | None:
        """Find an option by names and indices."""
        return self._docs.get(self._general(path))

    def below(self, path: Path) -> list[OptionDoc]:
        """List everything below a section."""
        start = self._general(path)
        return [doc for doc in self if doc.path[: len(start)] == start and doc.path != start]

    def suggest(self, path: Path) -> str:
        """Name the option most likely meant by `path`, or give ''."""
        parent = self._general(path[:-1])
        siblings = [doc.path[-1] for doc in self if doc.path[:-1] == parent]
        candidates = (
            difflib.get_close_matches(path[-1], siblings, n=1, cutoff=0.75),
            [doc.name for doc in self if doc.path[-1] == path[-1]],
            difflib.get_close_matches(path[-1], siblings, n=1),
            difflib.get_close_matches(".".join(path), [doc.name for doc in self], n=1, cutoff=0.8),
        )
        return next((names[0] for names in candidates if names), "")

    def _general(self, path: Path) -> Path:
        """Write indices and free names as in the schema."""
        general: Path = ()
        for key in path:
            options = (key, INDEX if key.isdecimal() else KEY, KEY)
            general += (next((name for name in options if (*general, name) in self._docs), key),)
        return general


@lru_cache(maxsize=64)
def describe(schema: type[Options]) -> OptionTree:
    """List every option of a schema, sections before their options."""
    root = schema.model_json_schema()
    return OptionTree(_walk_properties(root, (), defaults_of(schema), root.get("$defs", {})))


def defaults_of(schema: type[Options]) -> dict[str, Any]:
    """Give all defaults as nested plain data; options without a default are left out."""
    sections = {  # not called, for a section may have options that must be given
        name: field.default_factory.model_construct()
        for name, field in schema.model_fields.items()
        if isinstance(field.default_factory, type) and issubclass(field.default_factory, Options)
    }
    return schema.model_construct(None, **sections).model_dump(mode="json", warnings=False)


def _join(first: OptionDoc, second: OptionDoc) -> OptionDoc:
    """Join the same option of two branches of a union."""
    return replace(first, kinds=first.kinds | second.kinds, choices=(*first.choices, *second.choices))


def _walk_properties(
    spec: JsonSchema, path: Path, defaults: Mapping[str, Any], defs: JsonSchema
) -> Iterator[OptionDoc]:
    for name, child in spec.get("properties", {}).items():
        default = defaults.get(name, child.get("default"))
        required = name in spec.get("required", ()) and name not in defaults
        yield from _walk(child, (*path, name), default, defs, is_required=required)


def _walk(
    spec: JsonSchema, path: Path, default: Any, defs: JsonSchema, *, is_required: bool = False
) -> Iterator[OptionDoc]:
    branches = list(_branches(spec, defs))
    sections = [branch for branch in branches if "properties" in branch]
    lists = [branch for branch in branches if branch.get("type") == "array"]
    maps = [branch for branch in branches if isinstance(branch.get("additionalProperties"), dict)]
    items = [item for branch in lists for item in (branch.get("items"), *branch.get("prefixItems", ())) if item]
    yield OptionDoc(
        path=path,
        kinds=frozenset(kind for branch in branches for kind in _kinds(branch)),
        type=" or ".join(dict.fromkeys(_type(branch, defs) for branch in branches)),
        bounds=", ".join(dict.fromkeys(filter(None, map(_bounds, branches)))),
        choices=tuple(choice for branch in branches for choice in _choices(branch)),
        default=default,
        is_required=is_required,
        is_section=bool(sections),
        description=spec.get("description") or next((branch.get("description", "") for branch in sections), ""),
    )
    for section in sections:
        yield from _walk_properties(section, path, default if isinstance(default, dict) else {}, defs)
    for item in items:
        yield from _walk(item, (*path, INDEX), None, defs)
    for branch in maps:
        yield from _walk(branch["additionalProperties"], (*path, KEY), None, defs)


def _branches(spec: JsonSchema, defs: JsonSchema) -> Iterator[JsonSchema]:
    """List the alternatives of a schema, references followed."""
    if "$ref" in spec:
        yield from _branches(defs[spec["$ref"].rsplit("/", 1)[-1]], defs)
    elif "anyOf" in spec or "oneOf" in spec:
        for branch in spec.get("anyOf") or spec["oneOf"]:
            yield from _branches(branch, defs)
    else:
        yield spec


def _choices(branch: JsonSchema) -> tuple[str, ...]:
    values = branch.get("enum", [branch["const"]] if "const" in branch else [])
    return tuple(str(value) for value in values)


def _kinds(branch: JsonSchema) -> tuple[str, ...]:
    kind = branch.get("type", ())
    return (kind,) if isinstance(kind, str) else tuple(kind)


def _type(branch: JsonSchema, defs: JsonSchema) -> str:
    if _choices(branch):
        return "choice"
    kind = branch.get("type", "anything")
    if kind == "array":
        return _list_type(branch, defs)
    if kind == "object":
        return "section" if "properties" in branch else "mapping"
    return "path" if branch.get("format") == "path" else _TYPES.get(kind, str(kind))


def _list_type(branch: JsonSchema, defs: JsonSchema) -> str:
    if "prefixItems" in branch:
        return f"list of {len(branch['prefixItems'])}"
    item = next(_branches(branch.get("items", {}), defs))
    return f"list of {'sections' if 'properties' in item else _PLURALS.get(item.get('type', ''), 'values')}"


def _bounds(branch: JsonSchema) -> str:
    words = (
        ("minimum", "at least {}"),
        ("exclusiveMinimum", "above {}"),
        ("maximum", "at most {}"),
        ("exclusiveMaximum", "below {}"),
        ("multipleOf", "a multiple of {}"),
        ("maxLength", "at most {} characters"),
        ("maxItems", "at most {} items"),
    )
    limits = {key: branch[key] for key, _ in words if key in branch and branch[key] < TOO_LARGE_TO_TELL}
    if "prefixItems" in branch:
        return ""
    if "minimum" in limits and "maximum" in limits:
        return f"{write_scalar(limits['minimum'])} to {write_scalar(limits['maximum'])}"
    return ", ".join(word.format(write_scalar(limits[key])) for key, word in words if key in limits)
