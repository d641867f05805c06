"""Memory of the process: allocator settings and the peak."""

from __future__ import annotations

import ctypes
import platform
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEEP_BYTES = 2**31 - 1


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


def peak_memory_bytes() -> int:
    """Give the largest resident size of the process so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL("libc.so.6")
