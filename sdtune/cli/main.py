"""The command `sdtune`: finds the subcommand, and turns every failure into one line and an exit code."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import tempfile
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

import click

import sdtune
from sdtune.cli.lazy import LazyGroup
from sdtune.errors import OutOfMemoryError, PlatformError, SdtuneError, StoppedError, is_out_of_memory
from sdtune.plugins import Registry, load_registry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

COMMANDS: Mapping[str, tuple[str, str]] = {
    "train": ("sdtune.cli.train:train", "Train a method on a folder of images."),
    "plan": ("sdtune.cli.train:plan", "Show what a training would do, and start nothing."),
    "data": ("sdtune.cli.data:data", "Look at images and captions, and prepare them."),
    "lr": ("sdtune.cli.lr:lr", "Find a learning rate for your images."),
    "demo": ("sdtune.cli.demo:demo", "Train on the small model that comes with sdtune."),
    "export": ("sdtune.cli.export:export", "Write a run's result where other programs look for it."),
    "convert": ("sdtune.cli.convert:convert", "Bring an adapter, embedding or model into another program's form."),
    "inspect": ("sdtune.cli.inspect:inspect", "Tell what a file is, and which programs read it."),
    "verify": ("sdtune.cli.verify:verify", "Read a file as other programs do, and tell what they make of it."),
    "cache": ("sdtune.cli.cache:cache", "Look after what is kept between runs."),
    "config": ("sdtune.cli.config:config", "Write, show and check configurations."),
    "models": ("sdtune.cli.models:models", "List models."),
    "methods": ("sdtune.cli.plugins:methods", "List the methods there are."),
    "plugins": ("sdtune.cli.plugins:plugins", "List the plugins that were found."),
}
USAGE_EXIT, BUG_EXIT, INTERRUPT_EXIT = 2, 1, 130
ENVIRONMENT_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


class Shell(LazyGroup):
    """The group of all commands; a command's module is imported when it is invoked, plugins when they matter."""

    table = COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List sdtune's own commands in the order of use, then those of plugins."""
        return [*COMMANDS, *self._foreign(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command, or take it from a plugin."""
        return super().get_command(ctx, cmd_name) or self._foreign(ctx).get(cmd_name)

    def short_helps(self, ctx: click.Context) -> list[tuple[str, str]]:
        """Give name and one-line help of each command."""
        foreign = [(name, command.get_short_help_str(80)) for name, command in self._foreign(ctx).items()]
        return [*super().short_helps(ctx), *foreign]

    def _foreign(self, ctx: click.Context) -> dict[str, click.Command]:
        commands = registry_of(ctx).commands()
        return {command.name: command for command in commands if command.name and command.name not in COMMANDS}


def registry_of(ctx: click.Context) -> Registry:
    """Give the registry of this call of sdtune, loading it the first time; subcommands find it in `ctx.obj`."""
    root = ctx.find_root()
    if root.obj is None:
        root.obj = load_registry()
    registry: Registry = root.obj
    return registry


@click.group(
    cls=Shell,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of a failure.")
@click.version_option(sdtune.__version__, message="sdtune %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Fine-tune Stable Diffusion.

    `sdtune demo` shows everything on a small model of its own; `sdtune train --help` is where real work starts.
    """
    registry_of(ctx)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> NoReturn:
    """Run the command line of this process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str], registry: Registry | None = None) -> int:
    """Run one command line, print what went wrong on stderr, and give the exit code.

    Args:
        arguments: The words after `sdtune`.
        registry: What plugins bring; None loads the installed ones.
    """
    for stream in (sys.stdout, sys.stderr):
        _never_fail_to_encode(stream)
    with _warnings_on_stderr():
        try:
            code = cli.main(list(arguments), prog_name="sdtune", standalone_mode=False, obj=registry)
        except BaseException as error:  # noqa: BLE001  # the border of the command line: nothing may pass
            if "--debug" in arguments:
                traceback.print_exception(error)
            return _report(error)
    return code if isinstance(code, int) else 0


def _report(error: BaseException) -> int:
    """Print a failure and give its exit code."""
    match error:
        case StoppedError():
            _say("stopped", "yellow", str(error))
            return error.exit_code
        case SdtuneError():
            _print_errors([str(problem) for problem in error.problems] or [type(error).__name__])
            return error.exit_code
        case click.ClickException():
            _print_errors([_usage(error)])
            return USAGE_EXIT
        case click.Abort() | KeyboardInterrupt():
            _print_errors(["interrupted"])
            return INTERRUPT_EXIT
        case SystemExit():
            return error.code if isinstance(error.code, int) else BUG_EXIT
        case _ if is_out_of_memory(error):
            _print_errors([f"memory is used up: {error}; close other programs, or use a smaller model or resolution"])
            return OutOfMemoryError.exit_code
        case OSError(errno=number) if number in ENVIRONMENT_ERRNOS:
            _print_errors([f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)])
            return PlatformError.exit_code
        case _:
            _print_errors([f"a bug of sdtune, {type(error).__name__}: {error}; please report {_keep_traceback(error)}"])
            return BUG_EXIT


def _usage(error: click.ClickException) -> str:
    message = error.format_message()
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{message} (see '{context.command_path} --help')" if context else message


def _print_errors(messages: Iterable[str]) -> None:
    for message in messages:
        _say("error", "red", message)


def _say(label: str, color: str, message: str) -> None:
    is_colored = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    prefix = click.style(f"{label}:", fg=color, bold=True) if is_colored else f"{label}:"
    click.echo(f"{prefix} {one_line(message)}", err=True, color=is_colored)


def one_line(text: str) -> str:
    """Put text on one line, with control characters shown instead of sent to the terminal."""
    joined = " ".join(line.strip() for line in text.splitlines() if line.strip())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in joined)


def _keep_traceback(error: BaseException) -> Path:
    with tempfile.NamedTemporaryFile(
        "w", prefix="sdtune-bug-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
    ) as file:
        file.write(f"sdtune {sdtune.__version__}, Python {sys.version}, {sys.platform}\n\n")
        traceback.print_exception(error, file=file)
    return Path(file.name)


def _never_fail_to_encode(stream: TextIO) -> None:
    """Print a character that the terminal's encoding lacks as `?`: a file's name must not end a run."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")


class _Warnings(logging.Handler):
    """Print log records of level warning as the command line prints errors."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # the terminal is gone, and nothing ends by that
            _say("error" if record.levelno >= logging.ERROR else "warning", "yellow", record.getMessage())


@contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    logger, handler = logging.getLogger("sdtune"), _Warnings(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
