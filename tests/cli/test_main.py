"""The command line turns every failure into one line and the exit code of its kind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click
import pytest

from sdtune import errors
from sdtune.api import hookimpl
from sdtune.cli.main import COMMANDS, one_line, run
from sdtune.plugins import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _reports_of_bugs_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def registry_with(action: Callable[[], object], name: str = "act") -> Registry:
    """Give a registry whose one plugin brings the command `act`, which does `action`."""
    plugin = ModuleType("actor")
    plugin.sdtune_commands = hookimpl(lambda: [click.Command(name, callback=action, help="Act.")])  # type: ignore[attr-defined]  # a module
    return Registry.from_plugins([plugin])


def fail_with(error: BaseException) -> Registry:
    def action() -> None:
        raise error

    return registry_with(action)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), 2),
        (errors.DataError("x"), 3),
        (errors.ModelError("x"), 4),
        (errors.PlatformError("x"), 5),
        (errors.NumericsError("x"), 6),
        (errors.OutOfMemoryError("x"), 7),
        (errors.StoppedError("x"), 75),
        (PermissionError(13, "Permission denied", "out"), 5),
        (OSError(28, "No space left on device"), 5),
        (KeyboardInterrupt(), 130),
        (click.UsageError("x"), 2),
        (ValueError("x"), 1),
        (FileNotFoundError(2, "No such file", "x"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_each_kind_of_failure_has_its_exit_code(error: BaseException, code: int) -> None:
    assert run(["act"], fail_with(error)) == code


def test_each_problem_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [
        errors.Problem(message="first\nhalf", where="run.yaml:3"),
        errors.Problem(message="second", hint="mend"),
    ]
    run(["act"], fail_with(errors.DataError(problems=problems)))
    assert capsys.readouterr().err == "error: first half (run.yaml:3)\nerror: second; mend\n"


def test_a_bug_keeps_its_traceback_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    run(["act"], fail_with(ValueError("broken inside")))
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    report = Path(re.search(r"report (\S+)$", err.strip())[1])  # type: ignore[index]  # no match fails the test as well
    assert "Traceback" in report.read_text(encoding="utf-8")


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--debug", "act"], fail_with(errors.DataError("x")))
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["trian"], ["plugins", "--jsno"], ["--hepl"]])
def test_a_typing_mistake_is_one_line_with_a_suggestion(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments, Registry.from_plugins([])) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "Did you mean" in err


def test_a_plugins_command_is_suggested_too(capsys: pytest.CaptureFixture[str]) -> None:
    run(["zbera"], registry_with(lambda: None, name="zebra"))
    assert "Did you mean 'zebra'?" in capsys.readouterr().err


def test_a_plugins_command_runs_and_stands_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    registry = registry_with(lambda: click.echo("done"))
    assert run(["act"], registry) == 0
    assert run(["--help"], registry) == 0
    out = capsys.readouterr().out
    assert out.startswith("done\n")
    assert re.search(r"^  act +Act\.$", out, re.MULTILINE)


def test_a_plugin_cannot_replace_a_command_of_sdtune() -> None:
    assert run(["plugins"], registry_with(lambda: 1 / 0, name="plugins")) == 0


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([], Registry.from_plugins([])) == 0
    assert "Commands:" in capsys.readouterr().out


def test_plugins_lists_what_there_is_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    run(["plugins", "--json"], registry_with(lambda: None))
    plugins = {plugin["name"]: plugin for plugin in json.loads(capsys.readouterr().out)}
    assert plugins["core"]["families"]
    assert plugins["actor"]["state"] == "ready"


def test_plugins_lists_what_there_is_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    run(["plugins"], registry_with(lambda: None))
    assert re.search(r"^core +sdtune +[\d.]+ +ready", capsys.readouterr().out, re.MULTILINE)


def test_control_characters_never_reach_the_terminal() -> None:
    assert one_line("a\x1b[31mred\n  b\x07") == "a\\x1b[31mred b\\x07"


def test_messages_in_any_script_pass_unchanged() -> None:
    assert one_line("图像 → ü") == "图像 → ü"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_under_its_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"], Registry.from_plugins([])) == 0
    assert "\\b" not in capsys.readouterr().out  # the mark of lines that click is not to join


def sdtune(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run sdtune in a process of its own that also prints the heavy modules it imported."""
    code = (
        "import sys, atexit; from sdtune.cli.main import main; heavy = {'torch', 'diffusers', 'transformers', 'numpy'};"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)), file=sys.stderr)); main()"
    )
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plugins"], ["methods", "--json"], ["nonsense"]])
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    assert sdtune(*arguments).stderr.splitlines()[-1] == "[]"


def test_the_shell_completes_commands_without_torch() -> None:
    result = sdtune(_SDTUNE_COMPLETE="bash_complete", COMP_WORDS="sdtune plu", COMP_CWORD="1")
    assert "plugins" in result.stdout
    assert result.stderr.splitlines()[-1] == "[]"


def test_output_that_the_terminal_cannot_show_is_replaced() -> None:
    result = sdtune("图像", PYTHONIOENCODING="latin-1:strict")
    assert result.returncode == 2
    assert "No such command '??'" in result.stderr


def test_a_reader_that_leaves_early_causes_no_noise() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", "from sdtune.cli.main import main; main()", "methods", "--json"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=env, timeout=60, check=False)
    os.close(writer)
    assert result.stderr == b""


def best_start_s() -> float:
    """Give the least CPU time of three calls of `sdtune --help`; other processes on the machine disturb that little."""
    times = []
    for _ in range(3):
        before = os.times()
        sdtune("--help")
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(times)


def test_help_takes_less_than_half_a_second() -> None:
    assert best_start_s() < 0.5
