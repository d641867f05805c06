"""Slow change is found, and ordinary change is not."""

import pytest

from sdtune.train.watching.trends import Growth, Pace, UpdateSize

MIB = 2**20


def paces(seconds):
    pace = Pace()
    return [pace.add(one) for one in seconds]


def test_steps_that_became_slow_are_found_at_the_fifth():
    found = paces([9, 9, 9] + [1] * 20 + [4] * 5)
    assert found == [None] * 27 + [(1, 4)]


def test_single_slow_steps_are_nothing():
    assert not any(paces([1] * 20 + [9, 9, 9, 9, 1] * 5))


def test_buckets_of_different_sizes_are_nothing():
    assert not any(paces([1, 2, 4] * 30))


def test_a_slow_start_is_nothing():
    assert not any(paces([60, 5, 5] + [1] * 40))


def growths(sizes):
    growth = Growth()
    return [growth.add(step, size) for step, size in enumerate(sizes)]


def test_steady_growth_is_found_with_its_slope():
    found = [one for one in growths([(1000 + 10 * look) * MIB for look in range(60)]) if one]
    assert found == [(0, 500 * MIB, 50)]


@pytest.mark.parametrize(
    "sizes",
    [
        [1000 * MIB] * 200,
        [(1000 + 900 * (look % 7)) * MIB for look in range(200)],
        [(1000 + 50 * min(look, 30)) * MIB for look in range(200)],
        [(1000 + look // 10) * MIB for look in range(200)],
    ],
    ids=["flat", "saw", "warming up", "slight"],
)
def test_memory_that_settles_is_nothing(sizes):
    assert not any(growths(sizes))


def test_update_sizes_are_judged_after_three_in_a_row():
    size = UpdateSize()
    assert [size.add(0.2, 1) for _ in range(3)] == ["", "", "too high"]
    assert [size.add(1e-9, 1) for _ in range(3)] == ["", "", "too low"]
    assert [size.add(ratio, 1) for ratio in (0.2, 0.2, 0.01, 0.2, 0.2)] == [""] * 5


def test_a_rate_at_the_end_of_its_schedule_is_not_too_low():
    size = UpdateSize()
    size.add(1e-3, 1.0)
    assert [size.add(1e-9, 0.01) for _ in range(5)] == [""] * 5
