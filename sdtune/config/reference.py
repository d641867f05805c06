"""The pages that are written from the schema: options for people to read, and files for them to start from."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Literal

from sdtune.config.compose import compose_schema
from sdtune.config.describe import OptionDoc, defaults_of, describe
from sdtune.config.dump import write_flow
from sdtune.config.schema import CoreOptions
from sdtune.config.tree import from_plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sdtune.config.tree import Path
    from sdtune.specs import MethodSpec

Level = Literal["novice", "expert"]
WIDTH = 100
NOVICE = (
    *("method", "model.path", "data.path", "data.captions", "data.class_text", "data.resolution", "data.flip"),
    *("train.steps", "train.batch_size", "train.lr", "train.precision", "train.gradient_checkpointing", "train.seed"),
    *("save.every_epochs", "preview.prompts", "preview.every_steps", "output.dir", "output.name"),
)
_STARTING_VALUES: dict[str, object] = {"data.path": "path/to/images", "train.steps": 1000}
_PAGE = """\
# Options

Every option of the core, with what it takes, its default and its meaning. A method has options of its own, in the
section named after it: `sdtune config explain METHOD` lists them. How files and options are put together is told in
[configuration.md](configuration.md).

This page is written by `python -m sdtune.config.reference > docs/options.md`.
"""


def options_page() -> str:
    """Write the page of all options of the core, in Markdown."""
    docs = list(describe(CoreOptions))
    groups: dict[Path, list[OptionDoc]] = {}
    for doc in docs:
        if not doc.is_section or "array" in doc.kinds:
            groups.setdefault(doc.path[:-1], []).append(doc)
    described = {doc.path: doc.description for doc in docs}
    tables = (_table(path, described.get(path, ""), rows) for path, rows in groups.items())
    return _PAGE + "".join(tables)


def _table(path: Path, description: str, rows: Iterable[OptionDoc]) -> str:
    title = f"`{'.'.join(path)}`" if path else "The run"
    head = "\n".join(filter(None, (f"\n## {title}\n", description and f"{description}\n")))
    lines = [f"| `{doc.path[-1]}` | {_cell(doc.takes)} | {_default(doc)} | {_cell(doc.description)} |" for doc in rows]
    return "\n".join((head, "| option | takes | default | meaning |", "|---|---|---|---|", *lines, ""))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _default(doc: OptionDoc) -> str:
    return "must be given" if doc.is_required else f"`{_cell(write_flow(doc.default))}`"


def template(spec: MethodSpec, level: Level) -> str:
    """Write a commented file to start from: the options everybody needs, or all of them."""
    wanted = {*NOVICE, *(f"{part.name}.{flag}" for part in spec.sections for flag in part.flags)}
    schema = compose_schema(spec)
    defaults = from_plain(defaults_of(schema), "")
    docs = [
        doc
        for doc in describe(schema)
        if (doc.is_required and defaults.find(doc.path[:-1])) or defaults.find(doc.path)
        if level == "expert" or _is_wanted(doc, wanted)
    ]
    lines = [f"# {spec.summary} What is left out has its default; all options: docs/options.md"]
    for doc in docs:
        lines += _entry(doc, spec)
    return "\n".join(lines) + "\n"


def _is_wanted(doc: OptionDoc, wanted: set[str]) -> bool:
    return doc.name in wanted or doc.is_required or any(name.startswith(f"{doc.name}.") for name in wanted)


def _entry(doc: OptionDoc, spec: MethodSpec) -> Iterator[str]:
    indent = "  " * (len(doc.path) - 1)
    yield from [""] * (len(doc.path) == 1)
    if doc.is_section and "array" not in doc.kinds:
        yield from _comment(doc.description, indent)
        yield f"{indent}{doc.path[-1]}:"
        return
    takes = f"{doc.takes[:1].upper()}{doc.takes[1:]}."
    yield from _comment(f"{doc.description} {takes}" if doc.choices or doc.bounds else doc.description, indent)
    default = spec.name if doc.path == ("method",) else _STARTING_VALUES.get(doc.name, doc.default)
    yield (
        f"{indent}# {doc.path[-1]}: must be given"
        if doc.is_required
        else f"{indent}{doc.path[-1]}: {write_flow(default)}"
    )


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


if __name__ == "__main__":
    sys.stdout.write(options_page())
