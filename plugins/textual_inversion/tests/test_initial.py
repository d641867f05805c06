import pytest
import torch

from sdtune_textual_inversion.initial import spread


@pytest.mark.parametrize(
    ("words", "count", "expected"),
    [(1, 3, [0, 0, 0]), (2, 5, [0, 0, 0, 1, 1]), (3, 3, [0, 1, 2]), (4, 2, [0, 1]), (2, 1, [0])],
)
def test_vectors_begin_by_webuis_index_rule(words, count, expected):
    rows = torch.arange(words)[:, None].float()
    assert spread(rows, count)[:, 0].tolist() == expected


def test_no_words_begin_from_zeros():
    assert torch.equal(spread(torch.zeros(0, 4), 2), torch.zeros(2, 4))
