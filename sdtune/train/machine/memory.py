"""Memory of the process: allocator settings and the peak."""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sdtune.errors import OutOfMemoryError, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEEP_BYTES = 2**31 - 1
_STATM = Path("/proc/self/statm")
CONTEXT_BYTES = 500_000_000  # of the GPU's memory: CUDA's own, before the first tensor; half a gigabyte on most cards


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next step.

    Torch's CPU tensors above 128 KiB are otherwise mapped and page-faulted anew at every allocation, which costs
    about a fifth of a step (mallopt(3)). Does nothing elsewhere.
    """
    if libc := _glibc():
        libc.mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)


def return_freed_memory() -> None:
    """Give freed memory back to the system, after a part of the model was unloaded."""
    if libc := _glibc():
        libc.malloc_trim(0)


def resident_bytes() -> int:
    """Give the resident size of the process now; where the system does not tell, its largest so far."""
    if not _STATM.exists():
        return peak_memory_bytes()
    return int(_STATM.read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE


def peak_memory_bytes(device: str = "cpu") -> int:
    """Give the most memory this process has had so far.

    Args:
        device: `cpu`: its largest resident size, 0 where the system does not tell. `cuda`: what torch has reserved of
            the GPU, and CUDA's own share.
    """
    if device == "cuda":
        return torch.cuda.max_memory_reserved() + CONTEXT_BYTES
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def memory_told(problem: Callable[[], str], hint: Callable[[], str]) -> Iterator[None]:
    """Tell a user that memory is used up, instead of what torch or Python say of it.

    Args:
        problem: Gives what was being done, once it is known to have failed.
        hint: Gives what to do.

    Raises:
        OutOfMemoryError: Memory was used up inside.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"memory is used up {problem()}", hint=hint()) from error


def current_memory_bytes(device: torch.device) -> int:
    """Give what is in use now: torch's allocations on a GPU, else the resident size; 0 where none is told."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * mmap.PAGESIZE


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL("libc.so.6")
