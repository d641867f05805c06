"""What every test runs in: no network, a cache of its own, one thread, fixed seeds."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# Before anything imports torch or a hub client: they read these once.
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ.pop("SDTUNE_DISABLE_PLUGINS", None)

_FROZEN_MODULES = pytest.StashKey[int]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests of one file and one family together where whole groups are given out (`--dist loadgroup`).

    The slow ones share trainings, which a second process would repeat. The longest come first: one that began last
    would be waited for by all other processes.
    """
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    for item in items:
        name = item.name.partition("[")[2]
        family = name.partition("-")[0] if name.startswith("sd") else ""
        item.add_marker(pytest.mark.xdist_group(f"{item.path}:{family}"))


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDTUNE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_disks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Only a loss of power shows whether a file had reached the disk, and a run waits for that dozens of times.

    Tests of faults end processes in the middle of a save, which takes there what it takes.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "faults" not in request.path.parts:
            patch.setattr(os, "fsync", lambda _descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="module")
def _quick_collections(request: pytest.FixtureRequest) -> None:
    """Every run collects garbage a few times: let it pass over all tests and imported modules, half a second each."""
    stash, now = request.config.stash, len(sys.modules)
    if now > stash.get(_FROZEN_MODULES, 0) + 100:
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        stash[_FROZEN_MODULES] = now


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    if "torch" in sys.modules:  # light tests stay light
        sys.modules["torch"].manual_seed(0)
