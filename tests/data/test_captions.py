import pytest

from sdtune.data.captions import choose_form, drop_tags, drops_caption, is_flipped, shuffle_tags

IDS = [f"{number}.png#0" for number in range(2000)]


def test_shuffle_keeps_all_tags_and_the_first_ones_in_place():
    shuffled = shuffle_tags("zwx, dog, a,b ,c,  d", 2, 1, 0, "x#0")
    assert shuffled.startswith("zwx, dog, ")
    assert sorted(shuffled.split(", ")) == ["a", "b", "c", "d", "dog", "zwx"]


def test_shuffle_differs_between_visits_and_repeats_itself():
    texts = {shuffle_tags("a, b, c, d, e, f", 0, 1, 0, sample_id) for sample_id in IDS[:50]}
    assert len(texts) > 40
    assert shuffle_tags("a, b, c, d", 0, 1, 5, "x#1") == shuffle_tags("a, b, c, d", 0, 1, 5, "x#1")


def test_keeping_more_tags_than_there_are_changes_nothing():
    assert shuffle_tags("a, b", 5, 1, 0, "x#0") == "a, b"


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_dropout_has_its_rate(rate):
    share = sum(drops_caption(rate, 1, 0, sample_id) for sample_id in IDS) / len(IDS)
    assert share == pytest.approx(rate, abs=0.03)


def test_half_of_the_visits_are_flipped():
    assert sum(is_flipped(1, 0, sample_id) for sample_id in IDS) / len(IDS) == pytest.approx(0.5, abs=0.03)


def test_flips_change_with_seed_and_epoch():
    flips = {key: tuple(is_flipped(*key, sample_id) for sample_id in IDS[:64]) for key in ((1, 0), (1, 1), (2, 0))}
    assert len(set(flips.values())) == 3


def test_tags_are_dropped_behind_the_kept_ones():
    left = [drop_tags("zwx, a,b , c", 1, 0.5, 1, 0, sample_id).split(", ") for sample_id in IDS]
    assert all(tags[0] == "zwx" for tags in left)
    counts = {tag: sum(tag in tags for tags in left) / len(left) for tag in "abc"}
    assert counts == pytest.approx({"a": 0.5, "b": 0.5, "c": 0.5}, abs=0.04)


def test_no_dropping_leaves_a_caption_as_it_is():
    assert drop_tags("a,b ,c", 0, 0.0, 1, 0, "x#0") == "a,b ,c"


def test_each_form_is_drawn_as_often_and_again_by_the_same_visit():
    drawn = [choose_form(("a", "b", "c", "d"), 1, 0, sample_id) for sample_id in IDS]
    assert all(drawn.count(form) / len(drawn) == pytest.approx(0.25, abs=0.03) for form in "abcd")
    assert drawn == [choose_form(("a", "b", "c", "d"), 1, 0, sample_id) for sample_id in IDS]
