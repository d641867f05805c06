"""Work done ahead: the same results in the same order, errors at their turn, no thread left behind."""

import threading

import pytest

from sdtune.data.ahead import map_ahead
from sdtune.errors import DataError, PlatformError


def square(number):
    if number == 5:
        raise DataError("no five")
    return number * number


@pytest.mark.parametrize("ahead", [1, 3, 64])
@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_results_come_in_order_whatever_the_number_of_workers(workers, ahead):
    numbers = [0, 1, 2, 3, 4, 6, 7, 8]
    assert list(map_ahead(square, numbers, workers=workers, ahead=ahead)) == [number * number for number in numbers]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_comes_when_its_item_does(workers):
    results = map_ahead(square, range(3, 9), workers=workers, ahead=4)
    assert [next(results), next(results)] == [9, 16]
    with pytest.raises(DataError, match="no five"):
        next(results)


@pytest.mark.parametrize("end", [SystemExit, ZeroDivisionError])
def test_a_worker_that_dies_is_told_and_hangs_nothing(end):
    def die(_):
        raise end("gone")

    with pytest.raises(PlatformError, match=f"a worker that prepares batches died: {end.__name__}: gone"):
        list(map_ahead(die, range(3), workers=2, ahead=2))


def test_what_uses_up_memory_is_told_as_it_is():
    def fill(_):
        raise MemoryError

    with pytest.raises(MemoryError):
        list(map_ahead(fill, range(3), workers=1, ahead=2))


def test_no_more_than_asked_is_done_ahead():
    asked = []
    results = map_ahead(square, iter_noting(range(6, 99), asked), workers=2, ahead=3)
    next(results)
    assert asked == [6, 7, 8, 9]
    results.close()


def iter_noting(items, noted):
    for item in items:
        noted.append(item)
        yield item


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_closing_ends_the_threads(taken):
    before = threading.active_count()
    results = map_ahead(square, range(6, 99), workers=4, ahead=8)
    assert len([next(results) for _ in range(taken)]) == taken
    results.close()
    assert threading.active_count() == before


def test_each_thread_is_initialised():
    names = set()
    start = threading.Barrier(2)

    def note():
        names.add(threading.current_thread().name)

    assert list(map_ahead(lambda _: start.wait() >= 0, range(2), workers=2, ahead=4, initialise=note)) == [True, True]
    assert names == {"sdtune-worker_0", "sdtune-worker_1"}
