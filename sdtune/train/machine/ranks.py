"""The processes of one training: which of them this is, and how they agree.

`torchrun` and `accelerate launch` start the same command several times, once for each GPU, and tell each process its
place in environment variables. All of them do the same, each on its share, and meet in `Ranks.gather`.
"""

from __future__ import annotations

import logging
import os
import signal
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import distributed

from sdtune.errors import ConfigError, PlatformError, SdtuneError, StoppedError
from sdtune.train.machine.signals import SIGNALS, StopRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

T = TypeVar("T")
_PATIENCE = timedelta(days=1)  # the others wait while the first one draws and exports; who died is noticed at once
_BUFFER_BYTES = 64 * 2**20


class Ranks:
    """The place of this process among those of one training; alone, it neither waits nor sends anything.

    A process that fails tells the others when they next meet, so that all end with the same error and none waits for
    ever.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
        local: Number of this process on its machine: which GPU is its own.
    """

    def __init__(self, rank: int = 0, size: int = 1, local: int = 0) -> None:
        self.rank = rank
        self.size = size
        self.local = local
        self._has_failed = False

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def part(self, count: int) -> range:
        """Give this process's places out of `count`: neighbours; no process has two more than another."""
        first, last = (-(-count * rank // self.size) for rank in (self.rank, self.rank + 1))
        return range(first, last)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Give every `size`-th of the items: all of them are some process's, none is two's."""
        return items[self.rank :: self.size]

    def gather(self, value: T) -> list[T]:
        """Meet the others, and give what each of them brought, by rank.

        Raises:
            SdtuneError: Another one failed with it.
            PlatformError: Another one is gone.
        """
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with self._noticing_deaths():
            distributed.all_gather_object(found, value)
        if errors := [item for item in found if isinstance(item, SdtuneError)]:
            self._has_failed = True
            raise join_errors(errors)
        return found

    def wait(self) -> None:
        """Meet the others."""
        self.gather(None)

    def any(self, is_so: bool) -> bool:
        """Tell whether it is so in any process."""
        return any(self.gather(is_so))

    def add_up(self, tensor: Tensor) -> None:
        """Put the sum over all processes in the place of a tensor's values.

        Raises:
            PlatformError: Another process is gone.
        """
        if self.size > 1:
            with self._noticing_deaths():
                distributed.all_reduce(tensor)

    def fail(self, error: SdtuneError) -> SdtuneError:
        """Tell the others that this process failed, unless they know; give the error that all of them end with."""
        if self._has_failed or self.size == 1:
            return error
        try:
            self.gather(cast("Any", error))
        except SdtuneError as joined:
            return joined
        return error

    @contextmanager
    def _noticing_deaths(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo tells no more
            self._has_failed = True
            raise PlatformError(
                "another process of this training has ended", hint="its own message says why; then go on with --resume"
            ) from error


class GradientSum:
    """Add up gradients over all processes, through one buffer that is kept.

    Args:
        ranks: The processes.
        parameters: What has gradients, in the same order in each process.
    """

    def __init__(self, ranks: Ranks, parameters: Sequence[Tensor]) -> None:
        self._ranks = ranks
        self._parameters = parameters
        sizes = [parameter.numel() * parameter.element_size() for parameter in parameters]
        wanted = 0 if ranks.size == 1 else max(*sizes, min(sum(sizes), _BUFFER_BYTES))
        self._buffer = torch.empty(wanted, dtype=torch.uint8, device=parameters[0].device)

    def present(self) -> list[bool]:
        """Tell of each parameter whether it has a gradient here."""
        return [parameter.grad is not None for parameter in self._parameters]

    def add_up(self, is_present: Sequence[bool]) -> None:
        """Put the sum over all processes in the place of each gradient.

        Args:
            is_present: Of each parameter, whether any process has a gradient; the others stay without.
        """
        found = [own for own, is_there in zip(self._parameters, is_present, strict=True) if is_there]
        for parameter in found:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in self._buckets([parameter.grad for parameter in found if parameter.grad is not None]):
            sizes = [gradient.numel() for gradient in bucket]
            flat = self._buffer[: sum(sizes) * bucket[0].element_size()].view(bucket[0].dtype)
            parts = [part.view_as(own) for part, own in zip(torch.split(flat, sizes), bucket, strict=True)]
            torch._foreach_copy_(parts, bucket)
            self._ranks.add_up(flat)
            torch._foreach_copy_(bucket, parts)

    def _buckets(self, gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Cut into runs of one dtype that fit into the buffer."""
        bucket: list[Tensor] = []
        room = len(self._buffer)
        for gradient in gradients:
            needed = gradient.numel() * gradient.element_size()
            if bucket and (needed > room or gradient.dtype != bucket[0].dtype):
                yield bucket
                bucket, room = [], len(self._buffer)
            bucket.append(gradient)
            room -= needed
        if bucket:
            yield bucket


def join_errors(errors: Sequence[SdtuneError]) -> SdtuneError:
    """Make one error of those of several processes, each problem once; a stop gives way to a failure."""
    worst = next((error for error in errors if not isinstance(error, StoppedError)), errors[0])
    alike = [error for error in errors if type(error) is type(worst)]
    return type(worst)(problems=dict.fromkeys(problem for error in alike for problem in error.problems))


def find_ranks(environment: Mapping[str, str]) -> Ranks:
    """Read the place of this process from what its launcher set.

    Raises:
        ConfigError: A launcher was asked for several processes and started one.
    """
    if "WORLD_SIZE" in environment and "RANK" in environment:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        return Ranks(rank, size, int(environment.get("LOCAL_RANK", rank)))
    # accelerate 1.15 with --cpu (or without GPUs) starts one process however many were asked for
    if {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= environment.keys():
        raise ConfigError(
            "accelerate launch was asked for several processes and started one",
            hint="start with: torchrun --nproc_per_node N -m sdtune train ...",
        )
    return Ranks()


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the other processes of this training for as long as the context lasts; all leave together.

    Only the first process speaks: the others keep their warnings to themselves, and end with the exit code alone.

    Raises:
        SdtuneError: Whatever any of the processes failed with.
    """
    ranks = find_ranks(os.environ)
    if ranks.size == 1:
        yield ranks
        return
    _connect(ranks)
    try:
        with _silenced(not ranks.is_first):
            yield ranks
            with StopRequest(is_patient=True):  # the first one still writes files
                ranks.wait()
    except SdtuneError as error:
        _ignore_signals()
        joined = ranks.fail(error)
        if not ranks.is_first:
            raise SystemExit(joined.exit_code) from error
        if joined is not error:
            raise joined from error
        raise
    distributed.destroy_process_group()


def _connect(ranks: Ranks) -> None:
    """Open the connections: gloo for what processes say, on GPUs NCCL for gradients.

    Raises:
        PlatformError: There are fewer GPUs than processes, or the others cannot be reached.
    """
    count = torch.cuda.device_count()
    if count and ranks.local >= count:
        raise PlatformError(
            f"{count} GPUs are there for {ranks.local + 1} processes or more", hint=f"use --nproc_per_node {count}"
        )
    if count:
        torch.cuda.set_device(ranks.local)
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if count else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise PlatformError(f"the processes of this training cannot reach each other: {error}") from error


@contextmanager
def _silenced(is_wanted: bool) -> Iterator[None]:
    logger = logging.getLogger("sdtune")
    level = logger.level
    logger.setLevel(logging.CRITICAL if is_wanted else level)
    try:
        yield
    finally:
        logger.setLevel(level)


def _ignore_signals() -> None:
    """Leave in peace: as soon as one process has left, torchrun ends the others."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
