import numpy as np
import pytest

from sdtune.data.tables.lazy import LazySequence, joined


def squares(numbers):
    return LazySequence(lambda number: number * number, numbers)


@pytest.mark.parametrize("numbers", [[3, 1, 2], range(1, 4), np.array([3, 1, 2])], ids=["list", "range", "array"])
def test_items_are_made_when_they_are_asked_for(numbers):
    lazy = squares(numbers)
    assert list(lazy) == [number * number for number in numbers]
    assert lazy[-1] == int(numbers[-1]) ** 2
    assert list(lazy[1::2]) == list(lazy)[1::2]
    assert isinstance(lazy[1:], LazySequence)
    with pytest.raises(IndexError):
        lazy[3]


def test_joined_sequences_follow_each_other():
    together = joined("ab", "", "cde")
    assert list(together) == list("abcde")
    assert len(together) == 5
    assert list(joined(squares(range(3)), [7])) == [0, 1, 4, 7]
    assert not joined("", ())
