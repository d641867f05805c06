"""What a run computes with, and what of it has an effect on the last bits of its numbers."""

from __future__ import annotations

from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LIBRARIES = ("torch", "diffusers", "transformers", "accelerate")


def describe_environment(device: torch.device) -> dict[str, str]:
    """Give the versions of libraries, the device and the number of CPU threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    versions = {library: version(library) for library in _LIBRARIES}
    return {**versions, "device": name, "threads": str(torch.get_num_threads())}


def compare_environments(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Tell what differs, one line each; what an older version of sdtune did not note is not compared."""
    lines = []
    for name, value in new.items():
        if old.get(name, value) != value:
            remedy = f"; train.threads={old[name]} goes on to the last bit" if name == "threads" else ""
            lines.append(f"{name} was {old[name]} and is {value}: numbers may differ in their last digits{remedy}")
    return lines


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Let torch compute with so many CPU threads for as long as the context lasts; None: as many as it likes."""
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
