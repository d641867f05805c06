from pathlib import Path

import numpy as np
import pytest

from sdtune.data.tables.blobs import BytesColumn, PathColumn, TextColumn
from sdtune.data.tables.columns import (
    ChoiceColumn,
    DigestColumn,
    NumberColumn,
    OptionalColumn,
    SizeColumn,
)
from sdtune.data.types import Size

VALUES = {
    BytesColumn: [b"a", b"", b"\xff\0", b"\xff\0", b"a"],
    TextColumn: ["a dog", "", "äß犬", "äß犬", "\ud800 alone", "a dog"],
    DigestColumn: ["00" * 15 + "01", "", "ab" * 16, "", "00" * 15 + "01"],
    NumberColumn: [0, -1, 2**31 - 1, 7, 7],
    SizeColumn: [Size(1, 2), Size(64, 2**20), Size(1, 2), Size(3, 4)],
    ChoiceColumn: ["x", "y", "x", "x", "z"],
    PathColumn: [Path("a/1.png"), Path("/tmp/a/1.png"), Path("2.png"), Path("a/b/ä.jpg"), Path("a/3.png")],
    OptionalColumn: [None, "x", None, "y", "x", None],
}
KINDS = pytest.mark.parametrize("kind", VALUES)


@KINDS
def test_a_column_reads_as_the_list_it_was_made_of(kind):
    column = kind.of(iter(VALUES[kind]))
    assert column == VALUES[kind]
    assert [column[row] for row in range(len(column))] == list(column) == VALUES[kind]


@KINDS
def test_slices_and_rows_are_those_of_the_list(kind):
    column, values = kind.of(VALUES[kind]), VALUES[kind]
    assert column[-1] == values[-1]
    assert column[1:] == values[1:]
    assert column[::-2] == values[::-2]
    assert column.take(np.array([2, 0, 2])) == [values[2], values[0], values[2]]


@KINDS
def test_columns_join_as_lists_do(kind):
    column, values = kind.of(VALUES[kind]), VALUES[kind]
    other = kind.of(values[::-1])
    assert kind.join([column[1:3], other, column[:0], column]) == values[1:3] + values[::-1] + values


@KINDS
def test_an_empty_column_is_an_empty_list(kind):
    assert kind.of([]) == []
    assert kind.join([kind.of([]), kind.of([])]) == kind.of(VALUES[kind])[:0] == []


@KINDS
def test_rows_that_are_not_there_are_refused(kind):
    column = kind.of(VALUES[kind])
    with pytest.raises(IndexError):
        column[len(column)]


@KINDS
def test_values_are_plain_python_ones(kind):
    assert {type(value) for value in kind.of(VALUES[kind])} == {type(value) for value in VALUES[kind]}


def test_columns_of_other_values_are_not_equal():
    assert TextColumn.of(["a"]) != ["b"]
    assert TextColumn.of(["a"]) != ["a", "a"]
    assert TextColumn.of("a") != "a"


def test_one_text_for_many_rows_is_kept_once():
    many = TextColumn.of("a photo of a dog" for _ in range(1000))
    joined = TextColumn.join([many[:10], many])
    assert len(many._blob) == len(joined._blob) == len("a photo of a dog")


@pytest.mark.parametrize("kind", [BytesColumn, TextColumn])
def test_blobs_are_unpacked_as_they_were_packed(kind):
    column = kind.of(VALUES[kind]).take(np.array([4, 0, 3, 3]))
    assert kind.unpack(*column.pack()) == column


def test_choices_that_no_row_has_go():
    column = ChoiceColumn.of("xyz").take(np.array([2, 0]))
    assert column.choices == ("x", "z")
    assert column.counts() == {"x": 1, "z": 1}


def test_a_claim_is_asked_once_for_each_choice():
    asked = []
    flags = ChoiceColumn.of("xyxx").flags(lambda choice: asked.append(choice) or choice == "x")
    assert (flags.tolist(), asked) == ([True, False, True, True], ["x", "y"])


def test_rows_of_one_digest_are_copies():
    half = "ab" * 8
    column = DigestColumn.of([half + "00" * 8, half + "11" * 8, "cd" * 16, half + "00" * 8, "cd" * 16, "cd" * 16])
    assert column.copies() == [[0, 3], [2, 4, 5]]
    assert DigestColumn.of([]).copies() == []


@pytest.mark.parametrize("text", ["ab", "zz" * 16, "ab" * 17])
def test_what_is_no_digest_is_refused(text):
    with pytest.raises(ValueError, match=r"digest|hexadecimal"):
        DigestColumn.of([text])
