"""The documents tell what the code does."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

import pytest

from sdtune import hookspecs
from sdtune.cli.main import COMMANDS
from sdtune.config.optimizer import ScheduleOptions
from sdtune.config.optimizers import OPTIMIZERS

ROOT = Path(__file__).parents[1]
HOOKS = {name: function for name, function in vars(hookspecs).items() if name.startswith("sdtune_")}
PAGES = sorted(
    path for path in ROOT.glob("**/*.md") if not any(part.startswith(".") for part in path.parts[len(ROOT.parts) :])
)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_each_hook_has_a_section_with_its_arguments_and_no_section_lacks_its_hook() -> None:
    signatures = {f"{name}({', '.join(inspect.signature(hook).parameters)})" for name, hook in HOOKS.items()}
    assert set(re.findall(r"^## `(sdtune_.*)`$", read("docs/hooks.md"), re.MULTILINE)) == signatures


def test_each_room_is_in_the_architecture_and_each_one_there_exists() -> None:
    tables = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", read("docs/architecture.md"), re.MULTILINE)
    rooms = {path.stem for path in (ROOT / "sdtune").iterdir() if not path.name.startswith(("_", "py.typed"))}
    assert set(re.findall(r"`(\w+)`", " ".join(tables))) == rooms


def test_each_room_within_a_room_is_in_the_architecture() -> None:
    listed = set(re.findall(r"^\| `(\w+)/(\w+)` \|", read("docs/architecture.md"), re.MULTILINE))
    files = [file for outer, _ in listed for file in (ROOT / "sdtune" / outer).glob("*/__init__.py")]
    assert listed
    assert listed == {(file.parts[-3], file.parts[-2]) for file in files}


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_the_readme_shows_commands_that_exist(readme: str) -> None:
    commands = set(re.findall(r"^(?:\.venv/bin/)?sdtune (\w+)", read(readme), re.MULTILINE))
    assert {"train", "export", "demo"} <= commands <= set(COMMANDS)


def test_both_readmes_show_the_same_commands() -> None:
    def blocks(name: str) -> list[str]:
        text = "\n".join(re.findall(r"```\w*\n(.*?)```", read(name), re.DOTALL))
        return [line.split("#")[0].rstrip() for line in text.splitlines()]

    assert blocks("README.md") == blocks("README.zh-CN.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_changelog_knows_the_version() -> None:
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert f"## {version}" in read("CHANGELOG.md")


def test_the_page_of_optimizers_lists_all_of_them_as_they_are() -> None:
    rates = {"given": "`train.lr`", "factor": "1; finds its own", "own": "1; has its own"}
    rows = [
        f"| `{entry.name}` | {entry.kohya or '–'} | {entry.package} | {rates[entry.rate]} | {entry.advice} |"
        for entry in OPTIMIZERS.values()
    ]
    assert "\n".join(rows) in read("docs/optimizers.md")


def test_the_page_of_optimizers_has_every_schedule() -> None:
    names = ScheduleOptions.model_fields["name"].annotation.__args__
    table = read("docs/optimizers.md").partition("## Schedules")[2]
    assert [name for name in names if f"`{name}`" not in table] == []
