"""Weights and pieces, against cases worked out by hand and a second, slow reading."""

import itertools
import random

import pytest

from sdtune.models.prompt import Marks, Span, Unit, count_places, fill_row, parse_weights, split

COMMA, DOG = Unit((1,), is_comma=True), Unit((2,))


def spans(prompt):
    return [[(span.text, pytest.approx(span.weight)) for span in section] for section in parse_weights(prompt)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", []),
        ("a red dog, old", [("a red dog, old", 1)]),
        ("a (dog)", [("a ", 1), ("dog", 1.1)]),
        ("a (dog:1.3) b", [("a ", 1), ("dog", 1.3), (" b", 1)]),
        ("a [dog]", [("a ", 1), ("dog", 1 / 1.1)]),
        ("{dog}", [("dog", 1.05)]),
        ("{dog:1.2}", [("dog", 1.2)]),
        ("((dog))", [("dog", 1.21)]),
        ("((dog:2) cat:3)", [("dog", 6), (" cat", 3)]),
        ("[(dog)]", [("dog", 1)]),
        ("({dog})", [("dog", 1.155)]),
        ("(dog:-1)", [("dog", -1)]),
        ("(dog:0)", [("dog", 0)]),
        ("(dog: .5 )", [("dog", 0.5)]),
        ("(dog:2.)", [("dog", 2)]),
        ("(a)(b)", [("ab", 1.1)]),
        # what is open at the end is closed there
        ("a (dog", [("a ", 1), ("dog", 1.1)]),
        ("((dog", [("dog", 1.21)]),
        ("[(dog", [("dog", 1)]),
        ("((dog) cat", [("dog", 1.21), (" cat", 1.1)]),
        # what closes nothing is a letter
        ("dog)", [("dog)", 1)]),
        ("dog:1.3)", [("dog:1.3)", 1)]),
        ("dog] cat}", [("dog] cat}", 1)]),
        # each kind of bracket is matched by itself
        ("(a [b) c]", [("a ", 1.1), ("b", 1), (" c", 1 / 1.1)]),
        # a colon without a number, or before a square bracket, is a letter
        ("(dog: cat)", [("dog: cat", 1.1)]),
        ("(dog:1.2.3)", [("dog:1.2.3", 1.1)]),
        ("[dog:1.2]", [("dog:1.2", 1 / 1.1)]),
        ("a: b", [("a: b", 1)]),
        # escapes
        (r"\(dog\)", [("(dog)", 1)]),
        (r"(dog \(old\):1.2)", [("dog (old)", 1.2)]),
        (r"\[\]\{\}\\", [("[]{}\\", 1)]),
        (r"a\b", [("ab", 1)]),
        ("a\\", [("a", 1)]),
    ],
)
def test_weights_are_read_as_webui_reads_them(prompt, expected):
    assert spans(prompt) == [expected]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a BREAK b", [[("a", 1)], [("b", 1)]]),
        ("a, BREAK\n(b)", [[("a,", 1)], [("b", 1.1)]]),
        ("BREAK", [[], []]),
        ("a BREAK BREAK b", [[("a", 1)], [], [("b", 1)]]),
        ("(a BREAK b:2)", [[("a", 2)], [("b", 2)]]),
        ("aBREAK BREAKs a_BREAK break", [[("aBREAK BREAKs a_BREAK break", 1)]]),
    ],
)
def test_break_begins_a_section(prompt, expected):
    assert spans(prompt) == expected


@pytest.mark.parametrize("depth", [1, 3, 6])
@pytest.mark.parametrize(("pair", "factor"), [("()", 1.1), ("[]", 1 / 1.1), ("{}", 1.05)])
def test_weights_multiply_under_nesting(pair, factor, depth):
    assert spans(pair[0] * depth + "dog" + pair[1] * depth) == [[("dog", factor**depth)]]


@pytest.mark.parametrize("text", ["", "a dog", "red, blue; green! 1.5: x\ny", "né ☺ 犬", "a" * 500])
def test_text_without_brackets_is_unchanged(text):
    assert "".join(span.text for section in parse_weights(text) for span in section) == text


def test_every_letter_that_is_no_mark_is_kept():
    draw = random.Random(0)
    for _ in range(500):
        text = "".join(draw.choices("ab ,()[]{}", k=12))
        kept = "".join(span.text for span in parse_weights(text)[0])
        assert [letter for letter in kept if letter not in "()[]{}"] == [x for x in text if x not in "()[]{}"]


def test_neighbours_differ_in_weight():
    (section,) = parse_weights("a(b)[c](d)(e)f")
    assert all(left.weight != right.weight for left, right in itertools.pairwise(section))
    assert section[0] == Span("a")


def lengths(sections, most=9, room=75):
    pieces, cut = split(sections, room=room, most=most)
    return [count_places(piece) for piece in pieces], cut


@pytest.mark.parametrize(
    ("count", "most", "expected", "cut"),
    [
        (0, 1, [0], 0),
        (75, 1, [75], 0),
        (76, 1, [75], 1),
        (76, 2, [75, 1], 0),
        (150, 2, [75, 75], 0),
        (151, 2, [75, 75], 1),
        (151, 3, [75, 75, 1], 0),
        (400, 4, [75, 75, 75, 75], 100),
    ],
)
def test_pieces_have_75_places(count, most, expected, cut):
    assert lengths([[DOG] * count], most) == (expected, cut)


@pytest.mark.parametrize(
    ("comma", "expected"),
    [(54, [75, 5]), (55, [56, 24]), (70, [71, 9]), (74, [75, 5]), (75, [75, 5]), (0, [75, 5])],
)
def test_a_full_piece_ends_behind_a_comma_among_its_last_20(comma, expected):
    units = [COMMA if place == comma else DOG for place in range(80)]
    assert lengths([units])[0] == expected


def test_a_comma_that_follows_a_full_piece_keeps_it_whole():
    units = [DOG] * 60 + [COMMA] + [DOG] * 14 + [COMMA] + [DOG] * 3
    assert lengths([units])[0] == [75, 4]


def test_the_last_piece_is_filled_in_spite_of_commas():
    units = [DOG] * 60 + [COMMA] + [DOG] * 40
    assert lengths([units], most=1) == ([75], 26)


@pytest.mark.parametrize(
    ("before", "size", "expected"), [(73, 2, [75, 1]), (74, 2, [74, 3]), (75, 2, [75, 3]), (1, 75, [1, 75, 1])]
)
def test_a_word_is_never_cut_in_two(before, size, expected):
    assert lengths([[DOG] * before + [Unit((7,) * size), DOG]])[0] == expected


def test_a_word_that_finds_no_room_is_cut_with_what_follows():
    assert lengths([[DOG] * 74 + [Unit((7, 8)), DOG]], most=1) == ([74], 3)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [([2, 3], [2, 3]), ([0, 3], [0, 3]), ([3, 0], [3]), ([3, 0, 2], [3, 0, 2]), ([80, 1], [75, 5, 1]), ([0, 0], [0])],
)
def test_a_section_begins_a_piece(sections, expected):
    assert lengths([[DOG] * count for count in sections])[0] == expected


def test_sections_that_find_no_room_are_counted():
    assert lengths([[DOG] * 2, [DOG] * 3, [DOG] * 4], most=2) == ([2, 3], 4)


def slow_pieces(units, room):
    """Walk token by token, and look back at each full piece."""
    pieces, piece = [], []
    for unit in units:
        places = [number for done in piece for number in done.ids]
        if len(places) == room and not unit.is_comma:
            tail = list(itertools.takewhile(lambda done: not done.is_comma, reversed(piece)))[::-1]
            if len(tail) < len(piece) and sum(len(done.ids) for done in tail) < 20:
                pieces.append(piece[: len(piece) - len(tail)])
                piece = tail
        if sum(len(done.ids) for done in piece) + len(unit.ids) > room:
            pieces.append(piece)
            piece = []
        piece = [*piece, unit]
    return [*pieces, piece]


@pytest.mark.parametrize("seed", range(40))
def test_pieces_are_those_of_a_slow_walk(seed):
    draw = random.Random(seed)
    choices = [COMMA, *[DOG] * draw.choice([3, 30]), Unit((7,) * 3), Unit((8,) * 9)]
    units = draw.choices(choices, k=draw.randrange(1, 250))
    pieces, cut = split([units], room=75, most=99)
    assert (pieces, cut) == (slow_pieces(units, 75), 0)
    assert [unit for piece in pieces for unit in piece] == units


def test_a_row_has_marks_padding_and_a_weight_for_each_place():
    row = fill_row([Unit((5, 6), 1.5), Unit((7,), 0.5)], 8, Marks(start=1, end=2, pad=0))
    assert row.ids == (1, 5, 6, 7, 2, 0, 0, 0)
    assert row.weights == (1, 1.5, 1.5, 0.5, 1, 1, 1, 1)
