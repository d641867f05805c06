import random
from collections import Counter

import numpy as np
import pytest

from sdtune.data.order.pool import Extra, share, shuffled, split_repeats, visits_of
from sdtune.data.types import Size

SQUARE = Size(64, 64)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 1000])
def test_numbers_are_shuffled_as_a_list_of_things_is(count):
    things = [f"thing {number}" for number in range(count)]
    expected = things.copy()
    random.Random(5).shuffle(expected)
    assert [things[place] for place in shuffled(random.Random(5), count)] == expected


@pytest.mark.parametrize("total", [0, 1, 5, 17, 100])
def test_shares_add_up_and_differ_from_the_exact_ones_by_less_than_one(total):
    counts = {(name,): number for name, number in zip("abcd", (1, 2, 5, 9), strict=True)}
    parts = share(total, counts, least=0)
    assert sum(parts.values()) == total
    assert all(abs(parts[key] - total * count / 17) < 1 for key, count in counts.items())


@pytest.mark.parametrize(
    ("repeats", "count", "visits"),
    [(1, 7, 7), (2.5, 3, 8), (0.3, 10, 3), (0.01, 10, 0), (2.3, 10, 23), (9_999, 2, 19_998)],
)
def test_half_a_visit_is_one(repeats, count, visits):
    assert visits_of(repeats, count) == visits


def test_repeats_are_split_into_whole_ones_and_the_rest():
    assert split_repeats(2.5, {("a",): 4, ("b",): 2}) == (2, {("a",): 2, ("b",): 1})
    assert split_repeats(3.0, {("a",): 4}) == (3, {("a",): 0})
    assert split_repeats(0.01, {("a",): 4, ("b",): 2}) == (0, {("a",): 1, ("b",): 1})


@pytest.mark.parametrize(("count", "visits"), [(1, 1), (5, 2), (6, 4), (12, 9), (7, 7), (10, 1)])
def test_turns_are_fair_from_one_round_to_the_next(count, visits):
    extra = Extra(name="dog", places=np.arange(count) + 3, visits=visits)
    seen = Counter()
    for number in range(3 * count):
        turn = extra.turn(7, SQUARE, number).tolist()
        assert len(set(turn)) == visits
        seen.update(turn)
        counts = [seen[place] for place in range(3, 3 + count)]
        assert max(counts) - min(counts) <= 1
    assert set(seen.values()) == {3 * visits}
