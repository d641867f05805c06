"""The rules that hold the code together, read from the code itself: imports, names, sizes, forbidden calls."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
CORE = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(ROOT.glob("sdtune/**/*.py"))}
CORE = {name.removesuffix(".__init__"): path for name, path in CORE.items()}
BUNDLED = sorted(path for path in ROOT.glob("plugins/*/sdtune_*/**/*.py") if "tests" not in path.parts)
SOURCES = [*CORE.values(), *BUNDLED]

# Rooms of the core by height: a room imports its own height or lower when it is imported itself. The light half
# comes first and reaches the rest only inside functions. A single module may stand higher than its room.
HEIGHTS = {
    "__init__": 0, "errors": 0, "specs": 0, "hookspecs": 0, "randomness": 0, "config": 0, "api": 0, "files": 0,
    "paths": 0,
    "loader": 1, "plugins": 2, "cli": 3, "__main__": 3,
    "diffusion": 10,
    "adapters": 11, "models": 11,
    "formats": 12, "data": 12, "sampling": 12,
    "export": 13, "train": 13,
    "testing": 14, "demo": 14,
    "cli.progress": 14,  # an observer of the loop
}  # fmt: skip
# Rooms within a room, and single modules of it, lowest first: a module imports its own and those before it.
INNER_ROOMS = {
    "data": (
        "types", "digests", "ahead",
        "tables", "sources", "pictures", "captions",
        "check.finding", "check.kinds",  # the words of the doctor, which reports on buckets use
        "buckets", "order", "caches", "index", "check",
        "batches",
    ),
    "train": (
        "info", "method",
        "machine", "step", "update", "saving",
        "run",
        "assembly",
        "watching",
        "certification", "finish",
        "space",
        "inputs", "validation", "needs", "planning",
        "trainer", "launch", "precache",
        "rate_search",
    ),
}  # fmt: skip
METHOD_NAMES = {"lora", "dreambooth", "textual_inversion", "ti", "hypernetwork", "hypernet", "lycoris", "dylora"}
METHOD_NAMES_ALLOWED = (
    "sdtune/export/",  # kinds of files, which share some names with methods
    "sdtune/formats/",  # the same, of other programs
    "sdtune/models/architecture.py",  # names in files
    "sdtune/models/base.py",  # names in files
    "sdtune/models/detect.py",  # files that are no base model
    "sdtune/models/naming.py",  # names in files
)
METHOD_WORDS = re.compile("lora|dreambooth|inversion|hypernet|lycoris", re.IGNORECASE)
FORBIDDEN_CALLS = {
    "os.system", "os.popen", "eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "print",
}  # fmt: skip
BROAD_EXCEPTS_ALLOWED = (
    *("sdtune/cli/main.py", "sdtune/loader.py", "sdtune/models/tokenizer.py", "sdtune/plugins.py"),
    *("sdtune/train/watching/observers.py", "sdtune/train/planning/lookahead.py"),
)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def import_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs when a module is imported: no function bodies, nothing for the type checker alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(child):
            continue
        yield child
        yield from import_time_nodes(child)


def imported_names(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """List the dotted names that import statements reach for, `from a import b` as `a.b`."""
    for node in nodes:
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                yield from (f"{module}.{alias.name}" for alias in node.names)


def core_imports(path: Path) -> set[str]:
    """Modules of the core that a module needs at import time; `from package import module` is that module."""
    found = set()
    for name in imported_names(import_time_nodes(parse(path))):
        target = name if name in CORE else name.rpartition(".")[0]
        found |= {target} & set(CORE)
    return found


def room(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def height(module: str) -> int:
    return HEIGHTS.get(module.removeprefix("sdtune."), HEIGHTS[room(module)])


def inner_place(module: str) -> int | None:
    """Give a module's place among the rooms within its room; None where it has none."""
    _, outer, *names = module.split(".")
    rooms = INNER_ROOMS[outer]
    prefixes = [".".join(names[:count]) for count in range(len(names), 0, -1)]
    return next((rooms.index(prefix) for prefix in prefixes if prefix in rooms), None)


def called_name(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_every_room_has_a_height() -> None:
    assert {room(name) for name in CORE} <= set(HEIGHTS)


@pytest.mark.parametrize("module", CORE)
def test_imports_never_climb(module: str) -> None:
    climbing = [name for name in core_imports(CORE[module]) if height(name) > height(module)]
    assert climbing == []


@pytest.mark.parametrize("outer", INNER_ROOMS)
def test_every_module_of_a_room_with_rooms_has_a_place(outer: str) -> None:
    modules = [name for name in CORE if name.startswith(f"sdtune.{outer}.")]
    assert [name for name in modules if inner_place(name) is None] == []
    assert {inner_place(name) for name in modules} == set(range(len(INNER_ROOMS[outer])))


@pytest.mark.parametrize("outer", INNER_ROOMS)
def test_imports_never_climb_within_a_room(outer: str) -> None:
    modules = [name for name in CORE if name.startswith(f"sdtune.{outer}.")]
    places = {name: place for name in modules if (place := inner_place(name)) is not None}
    climbing = [
        (name, found)
        for name, place in places.items()
        for found in core_imports(CORE[name])
        if places.get(found, place) > place
    ]
    assert climbing == []


def test_only_the_command_line_imports_the_command_line() -> None:
    users = [name for name in CORE if any(room(found) == "cli" for found in core_imports(CORE[name]))]
    assert {room(name) for name in users} <= {"cli", "__main__"}


def test_there_is_no_import_cycle() -> None:
    graph = {name: core_imports(path) - {name} for name, path in CORE.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_light_half_imports_nothing_heavy() -> None:
    light = [name for name in CORE if height(name) < HEIGHTS["diffusion"]]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {light}];"
        "print(sorted({'torch', 'diffusers', 'transformers', 'accelerate', 'safetensors', 'numpy'} & set(sys.modules)))"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("path", BUNDLED, ids=relative)
def test_a_plugin_imports_only_the_api_testing_and_itself(path: Path) -> None:
    package = path.relative_to(ROOT).parts[2]
    names = [name for name in imported_names(ast.walk(parse(path))) if name.split(".")[0].startswith("sdtune")]
    allowed = ("sdtune.api.", "sdtune.testing.", f"{package}.")
    assert [name for name in names if not f"{name}.".startswith(allowed)] == []


@pytest.mark.parametrize(
    "path", [path for path in CORE.values() if not relative(path).startswith(METHOD_NAMES_ALLOWED)], ids=relative
)
def test_the_core_names_no_method(path: Path) -> None:
    words = {
        node.value for node in ast.walk(parse(path)) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    words |= {node.id for node in ast.walk(parse(path)) if isinstance(node, ast.Name)}
    packages = {name.split(".")[0] for name in imported_names(ast.walk(parse(path)))}
    assert words & METHOD_NAMES == set()
    assert [name for name in packages if name.startswith("sdtune_")] == []


def test_no_line_of_the_core_names_a_method() -> None:
    named = {
        name
        for path in CORE.values()
        if METHOD_WORDS.search(path.read_text(encoding="utf-8"))
        and not (name := relative(path)).startswith(METHOD_NAMES_ALLOWED)
    }
    assert named == set()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_modules_and_functions_are_small(path: Path) -> None:
    functions = [node for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert {node.name: lines(node) for node in functions if lines(node) > 60} == {}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_nothing_runs_a_shell_evaluates_text_or_unpickles(path: Path) -> None:
    calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    assert FORBIDDEN_CALLS & {called_name(node) for node in calls} == set()
    shells = [node.lineno for node in calls for word in node.keywords if word.arg in {"shell", "trust_remote_code"}]
    loads = [node for node in calls if called_name(node) == "torch.load"]
    guarded = [node for node in loads if "weights_only=True" in ast.unparse(node)]
    assert (shells, loads) == ([], guarded)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_broad_excepts_stand_at_the_borders_only(path: Path) -> None:
    handlers = [node for node in ast.walk(parse(path)) if isinstance(node, ast.ExceptHandler)]
    broad = [node for node in handlers if catches_everything(node) and not reraises(node)]
    assert [node.lineno for node in broad] == [] or relative(path) in BROAD_EXCEPTS_ALLOWED


def catches_everything(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or ast.unparse(kind) in {"Exception", "BaseException"} for kind in kinds)


def reraises(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_no_name_on_an_allow_list_is_stale() -> None:
    listed = chain(METHOD_NAMES_ALLOWED, BROAD_EXCEPTS_ALLOWED)
    assert [name for name in listed if not (ROOT / name).exists()] == []
