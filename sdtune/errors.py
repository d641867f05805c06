"""Errors that a user can fix, each with the exit code of its kind.

A message is one line: what is wrong, the value, where it came from, then what to do. Several independent problems
travel in one error, so that a user mends them in one go.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


_NO_MEMORY = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing a user can mend.

    Attributes:
        message: What is wrong, with the value.
        where: File and line, option or path it came from; empty when there is none.
        hint: The exact option or command that mends it; empty when there is none.
    """

    message: str
    where: str = ""
    hint: str = ""

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.message}{hint}{place}"


class SdtuneError(Exception):
    """A problem the user can mend; children fix the exit code."""

    exit_code = 1

    def __init__(self, message: str = "", *, where: str = "", hint: str = "", problems: Iterable[Problem] = ()) -> None:
        first = (Problem(message=message, where=where, hint=hint),) if message else ()
        self.problems: tuple[Problem, ...] = (*first, *problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ConfigError(SdtuneError):
    """Wrong use of the command line or the configuration (exit 2)."""

    exit_code = 2


class DataError(SdtuneError):
    """Images, captions or folders that cannot be trained on (exit 3)."""

    exit_code = 3


class ModelError(SdtuneError):
    """A model, adapter or other tensor file that cannot be used (exit 4)."""

    exit_code = 4


class PlatformError(SdtuneError):
    """Disk, permission, lock or missing package (exit 5)."""

    exit_code = 5


class NumericsError(SdtuneError):
    """Loss or gradients that are not finite (exit 6)."""

    exit_code = 6


class OutOfMemoryError(SdtuneError):
    """Memory of the device or the host is used up (exit 7)."""

    exit_code = 7


class StoppedError(SdtuneError):
    """The run was asked to stop, and its state is saved (exit 75)."""

    exit_code = 75


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of Python or torch says that memory is used up, of a GPU or of the host.

    torch has a class for GPUs; its CPU allocator and the GPU's libraries raise plain `RuntimeError`s.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


class Problems:
    """Collect independent problems, then raise them together.

    Example:
        problems = Problems(DataError)
        for path in paths:
            with problems.collect():
                check(path)
        problems.raise_if_any()
    """

    def __init__(self, kind: type[SdtuneError]) -> None:
        self._kind = kind
        self._problems: list[Problem] = []

    def add(self, message: str, *, where: str = "", hint: str = "") -> None:
        """Note one problem."""
        self._problems.append(Problem(message=message, where=where, hint=hint))

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Note the problems of an `SdtuneError` raised inside, and go on; one of the machine's own goes through."""
        try:
            yield
        except PlatformError:
            raise
        except SdtuneError as error:
            self.take(error)

    def take(self, error: SdtuneError) -> None:
        """Note the problems of an error."""
        self._problems.extend(error.problems)

    def raise_if_any(self) -> None:
        """Raise everything noted so far as one error."""
        if self._problems:
            raise self._kind(problems=self._problems)
