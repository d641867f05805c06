"""Work done ahead of its time, in threads."""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import torch

from sdtune.errors import PlatformError, SdtuneError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Future

T = TypeVar("T")
R = TypeVar("R")
logger = logging.getLogger(__name__)
_OWN_KIND = (SdtuneError, MemoryError, torch.OutOfMemoryError)


def map_ahead(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int,
    ahead: int,
    initialise: Callable[[], None] | None = None,
) -> Generator[R]:
    """Give `function(item)` for each item, in order, computed in threads up to `ahead` items before it is asked for.

    Closing the generator ends the threads. `items` is read in the caller's thread.

    Args:
        function: Called in several threads at once; what it gives must hang on the item alone.
        items: As many as there are.
        workers: Threads; 0 computes each when it is asked for.
        ahead: Results that wait at most, beside the one that is given.
        initialise: Called first in each thread.

    Raises:
        SdtuneError: From `function`, when its item's turn comes.
        PlatformError: `function` failed in another way.
    """
    if not workers:
        yield from map(function, items)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="sdtune-worker", initializer=initialise) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()


def _result(future: Future[R]) -> R:
    error = future.exception()
    if error is None or isinstance(error, _OWN_KIND):
        return future.result()
    logger.info("a worker died", exc_info=error)
    raise PlatformError(
        f"a worker that prepares batches died: {type(error).__name__}: {error}",
        hint="the log of the run says where; data.workers=0 goes without workers",
    ) from error
