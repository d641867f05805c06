import math
import random
from fractions import Fraction

import pytest

from sdtune.config.data import DataOptions
from sdtune.data.captions.treating import Rules, is_dropped, is_flipped, possible_captions, treat_caption, word_once
from sdtune.data.captions.visit_draws import VisitDraws
from sdtune.randomness import derive_seed

IDS = [f"{number}.png#0" for number in range(2000)]


def visit(sample_id="x#0", epoch=0, step=0, seed=1):
    return VisitDraws(seed=seed, epoch=epoch, sample_id=sample_id, step=step)


def treat(text, sample_id="x#0", *, step=0, epoch=0, warmup=0, brackets=False, templates=(), **options):
    rules = Rules(
        options=DataOptions(**options), warmup_steps=warmup, keeps_brackets=brackets, templates=tuple(templates)
    )
    return treat_caption(word_once(text, rules), rules, visit(sample_id, epoch, step))


def possible(text, templates=(), **options):
    rules = Rules(options=DataOptions(**options), templates=tuple(templates))
    return possible_captions(word_once(text, rules), rules)


# Tags


def test_shuffle_keeps_all_tags_and_the_first_ones_in_place():
    shuffled = treat("zwx, dog, a,b ,c,  d", shuffle_tags=True, keep_tags=2)
    assert shuffled.startswith("zwx, dog, ")
    assert sorted(shuffled.split(", ")) == ["a", "b", "c", "d", "dog", "zwx"]


def test_shuffle_differs_between_visits_and_repeats_itself():
    texts = {treat("a, b, c, d, e, f", sample_id, shuffle_tags=True) for sample_id in IDS[:50]}
    assert len(texts) > 40
    assert len({treat("a, b, c, d", epoch=5, shuffle_tags=True) for _ in range(3)}) == 1


def test_keeping_more_tags_than_there_are_changes_nothing():
    assert treat("a, b", shuffle_tags=True, keep_tags=5) == "a, b"


def test_tags_are_dropped_behind_the_kept_ones():
    left = [treat("zwx, a,b , c", sample_id, keep_tags=1, tag_dropout=0.5).split(", ") for sample_id in IDS]
    assert all(tags[0] == "zwx" for tags in left)
    counts = {tag: sum(tag in tags for tags in left) / len(left) for tag in "abc"}
    assert counts == pytest.approx({"a": 0.5, "b": 0.5, "c": 0.5}, abs=0.04)


def test_no_treatment_leaves_a_caption_as_it_is():
    assert treat("a,b ,c") == "a,b ,c"


def test_a_separator_parts_what_stays_from_what_moves():
    text = "zwx, dog ||| a, b, c, d ||| best, sharp"
    treated = {treat(text, sample_id, keep_separator="|||", shuffle_tags=True) for sample_id in IDS[:300]}
    assert len(treated) == 24
    assert all(caption.startswith("zwx, dog, ") and caption.endswith(", best, sharp") for caption in treated)


def test_a_separator_goes_also_where_nothing_moves():
    assert treat("zwx ||| a, b", keep_separator="|||") == "zwx, a, b"


def test_a_caption_without_the_separator_keeps_tags_by_their_number():
    treated = {treat("zwx, a, b", sample_id, keep_separator="|||", keep_tags=1, shuffle_tags=True) for sample_id in IDS}
    assert treated == {"zwx, a, b", "zwx, b, a"}


def test_tags_bound_together_move_as_one():
    options = {"secondary_separator": ";;;", "shuffle_tags": True}
    treated = {treat("a;;;b, c ;;; d", sample_id, **options) for sample_id in IDS[:50]}
    assert treated == {"a, b, c, d", "c, d, a, b"}
    assert treat("a;;;b", secondary_separator=";;;") == "a, b"


def test_other_separators_part_tags():
    assert sorted(treat("a b | c, d", shuffle_tags=True, tag_separator="|").split(", ")) == ["a b", "c", "d"]


@pytest.mark.parametrize("group", ["(red, blue:1.3)", "[x, y]", "{a, (b, c:0.5)}", r"(a\), b:1.2)"])
def test_a_weighted_group_is_one_tag(group):
    treated = {treat(f"{group}, dog, cat", sample_id, shuffle_tags=True, brackets=True) for sample_id in IDS[:100]}
    assert len(treated) == 6
    assert all(group in caption for caption in treated)


def test_brackets_that_nothing_closes_bind_nothing():
    treated = {treat("a :(, b, c :)x, d", sample_id, shuffle_tags=True, brackets=True) for sample_id in IDS[:100]}
    assert "d" in {caption.split(", ")[0] for caption in treated}
    assert len({treat(":(, b, ;(", sample_id, shuffle_tags=True, brackets=True) for sample_id in IDS[:100]}) == 6


def test_brackets_are_letters_where_they_are_no_weights():
    assert len({treat("(a, b), c", sample_id, shuffle_tags=True) for sample_id in IDS[:100]}) == 6


def test_tags_come_in_one_by_one_during_a_warm_up():
    texts = [treat("zwx, a, b, c, d, e", step=step, warmup=8, tag_warmup=8, keep_tags=1) for step in range(10)]
    assert [len(text.split(", ")) - 1 for text in texts] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert texts[4] == "zwx, a, b, c"


@pytest.mark.parametrize(("least", "counts"), [(3, [3, 3, 4, 4]), (9, [5, 5, 5, 5])])
def test_a_warm_up_begins_with_a_number_of_tags(least, counts):
    texts = [treat("a, b, c, d, e", step=s, warmup=4, tag_warmup=4, tag_warmup_min=least) for s in range(4)]
    assert [len(text.split(", ")) for text in texts] == counts


@pytest.mark.parametrize(("span", "steps"), [(30, 30), (0.25, 50), ("10%", 20)])
def test_a_warm_up_is_told_in_steps_or_as_a_share_of_the_run(span, steps):
    from sdtune.data.types import Subset

    own = Subset(
        name="a",
        path=None,
        repeats=1,
        class_text="",
        weight=1,
        caption_source="txt",
        options=DataOptions(tag_warmup=span),
    )
    assert Rules.of(own, steps=200).warmup_steps == steps


# Draws of earlier versions, which runs that go on must find again


def old_shuffle(caption, keep, *draw):
    tags = [tag.strip() for tag in caption.split(",")]
    tail = [tag for tag in tags[keep:] if tag]
    random.Random(derive_seed(draw[0], "shuffle_tags", *draw[1:])).shuffle(tail)
    return ", ".join([*tags[:keep], *tail])


def old_drop(caption, keep, rate, *draw):
    if not rate:
        return caption
    tags = [tag.strip() for tag in caption.split(",")]
    draws = random.Random(derive_seed(draw[0], "drop_tags", *draw[1:]))
    return ", ".join([*tags[:keep], *(tag for tag in tags[keep:] if draws.random() >= rate)])


@pytest.mark.parametrize("number", range(100))
def test_tags_are_drawn_as_they_have_always_been(number):
    draws = random.Random(number)
    text = draws.choice([", ", ",", " ,  "]).join(
        draws.choices(["a", "b c", "", "(d", "e)", "f"], k=draws.randrange(9))
    )
    keep, rate, shuffles = draws.randrange(4), draws.choice([0.0, 0.3, 1.0]), draws.random() < 0.7
    draw = (number, draws.randrange(5), f"{number}.png#1")
    rules = Rules(options=DataOptions(keep_tags=keep, tag_dropout=rate, shuffle_tags=shuffles))
    old = old_drop(text, keep, rate, *draw)
    assert treat_caption(text, rules, visit(draw[2], draw[1], seed=draw[0])) == (
        old_shuffle(old, keep, *draw) if shuffles else old
    )


# A second implementation of the rules of kohya's scripts, by their description


def kohya_parts(text, options):
    """Give the tags that stay in front, those that move, and those that stay behind."""
    mark, sign = options["keep_separator"], options["tag_separator"]

    def tags(part):
        return [tag.strip() for tag in part.split(sign)]

    if mark in text:
        pieces = [*text.split(mark, 2), ""][:3]
        return [[tag for tag in tags(piece) if tag] for piece in pieces]
    every = tags(text)
    return every[: options["keep_tags"]], every[options["keep_tags"] :], []


def kohya_count(tags, options, step, steps):
    least = options["tag_warmup_min"]
    if not steps or step >= steps:
        return len(tags)
    return min(len(tags), math.floor(step * Fraction(len(tags) - least, steps)) + least)


def random_case(draws):
    tags = [f"tag{number}" for number in draws.sample(range(99), draws.randint(1, 12))]
    sign = draws.choice([",", ";"])
    if draws.random() < 0.5:
        for place in sorted(draws.sample(range(len(tags) + 1), draws.randint(1, min(2, len(tags)))), reverse=True):
            tags.insert(place, "|||")
    text = f" {sign}".join(tags).replace(f" {sign}||| {sign}", " ||| ")
    options = {
        "keep_separator": "|||",
        "tag_separator": sign,
        "keep_tags": draws.randrange(4),
        "tag_warmup_min": draws.randint(1, 4),
        "shuffle_tags": draws.random() < 0.5,
    }
    return text, options, draws.randrange(12), draws.choice([0, 10])


@pytest.mark.parametrize("number", range(300))
def test_tags_follow_the_rules_of_kohyas_scripts(number):
    draws = random.Random(number)
    text, options, step, steps = random_case(draws)
    front, free, back = kohya_parts(text, options)
    there = free[: kohya_count(free, options, step, steps)]
    treated = treat(text, f"{number}#0", step=step, warmup=steps, tag_warmup=steps, **options)
    if not (steps or options["shuffle_tags"] or "|||" in text):
        assert treated == text
        return
    found = treated.split(", ")
    middle = found[len(front) : len(found) - len(back)]
    assert found[: len(front)] == front
    assert found[len(found) - len(back) :] == back
    assert sorted(middle) == sorted(there)
    assert options["shuffle_tags"] or middle == there


# Whole captions


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_dropout_has_its_rate(rate):
    share = sum(is_dropped(DataOptions(caption_dropout=rate), visit(sample_id)) for sample_id in IDS) / len(IDS)
    assert share == pytest.approx(rate, abs=0.03)


def test_every_third_epoch_is_without_captions():
    options = DataOptions(caption_dropout_every_epochs=3)
    assert [is_dropped(options, visit(epoch=epoch)) for epoch in range(7)] == [False, False, True] * 2 + [False]


def test_half_of_the_visits_are_flipped():
    assert sum(is_flipped(1, 0, sample_id) for sample_id in IDS) / len(IDS) == pytest.approx(0.5, abs=0.03)


def test_flips_change_with_seed_and_epoch():
    flips = {key: tuple(is_flipped(*key, sample_id) for sample_id in IDS[:64]) for key in ((1, 0), (1, 1), (2, 0))}
    assert len(set(flips.values())) == 3


def test_each_form_is_drawn_as_often_and_again_by_the_same_visit():
    drawn = [visit(sample_id).choose("caption_form", "abcd") for sample_id in IDS]
    assert all(drawn.count(form) / len(drawn) == pytest.approx(0.25, abs=0.03) for form in "abcd")
    assert drawn == [visit(sample_id).choose("caption_form", "abcd") for sample_id in IDS]


# Rates, held against the exact distribution


def binomial_bounds(count, rate, tail=1e-4):
    """Give the smallest and largest number of hits that are not in a tail."""
    chances = [math.comb(count, hits) * rate**hits * (1 - rate) ** (count - hits) for hits in range(count + 1)]
    low = next(hits for hits in range(count) if sum(chances[: hits + 1]) > tail)
    high = next(hits for hits in range(count, 0, -1) if sum(chances[hits:]) > tail)
    return low, high


@pytest.mark.parametrize(
    ("text", "options", "hit", "rate"),
    [
        ("a, b", {"tag_dropout": 0.3}, "a, b", 0.49),
        ("a, b", {"tag_dropout": 0.3}, "", 0.09),
        ("a, b, c", {"shuffle_tags": True}, "b, a, c", 1 / 6),
        ("{a|b|c} {d|e}", {"wildcards": True}, "b e", 1 / 6),
        ("a\nb\nc\nd", {"caption_lines": "draw"}, "d", 1 / 4),
        ("a", {"templates": ["one", "two", "three [filewords]"]}, "three a", 1 / 3),
        ("a, {b|c}", {"tag_dropout": 0.5, "keep_tags": 1, "wildcards": True}, "a, c", 1 / 4),
    ],
)
def test_all_that_is_drawn_has_its_chance(text, options, hit, rate):
    hits = sum(treat(text, f"{number}#0", **options) == hit for number in range(1000))
    low, high = binomial_bounds(1000, rate)
    assert low <= hits <= high


@pytest.mark.parametrize("rate", [0.02, 0.5, 0.9])
def test_dropped_captions_have_their_chance(rate):
    hits = sum(is_dropped(DataOptions(caption_dropout=rate), visit(f"{number}#0")) for number in range(1000))
    low, high = binomial_bounds(1000, rate)
    assert low <= hits <= high


# Words


def test_prefix_and_suffix_are_tags_like_others():
    assert treat("a, b", prefix="zwx,", suffix=", sharp") == "zwx, a, b , sharp"
    shuffled = treat("a, b", prefix="zwx,", suffix=", sharp", shuffle_tags=True, keep_tags=1)
    assert shuffled.startswith("zwx, ")
    assert sorted(shuffled.split(", ")) == ["a", "b", "sharp", "zwx"]


def test_prefix_and_suffix_stand_alone_for_an_empty_caption():
    assert treat("", prefix="zwx", suffix="dog") == "zwx dog"


def test_lines_are_drawn_one_by_one():
    texts = [treat("one\ntwo\nthree", sample_id, caption_lines="draw", prefix="a") for sample_id in IDS]
    assert {text: texts.count(text) / len(IDS) for text in sorted(set(texts))} == pytest.approx(
        {"a one": 1 / 3, "a three": 1 / 3, "a two": 1 / 3}, abs=0.04
    )


def test_wildcards_are_drawn_apart():
    texts = {treat("{a|b} {c|d}, {{x|y}}", sample_id, wildcards=True) for sample_id in IDS[:100]}
    assert texts == {f"{first} {second}, {{x|y}}" for first in "ab" for second in "cd"}


def test_braces_are_letters_without_wildcards():
    assert treat("{a|b} {{c}}") == "{a|b} {{c}}"


def test_the_subject_is_named_in_what_was_drawn():
    texts = {treat("{a dog|a puppy}", s, wildcards=True, token="zwx", class_word="dog") for s in IDS[:50]}
    assert texts == {"a zwx dog", "zwx, a puppy"}


def test_a_line_of_the_templates_is_drawn_after_the_tags_are_shuffled():
    lines = ["a photo of a [name], [filewords]", "{caption} by {pt1}"]
    options = {"token": "zwx", "words": {"pt1": "artist"}, "shuffle_tags": True}
    texts = {treat("red, blue", sample_id, templates=lines, **options) for sample_id in IDS[:100]}
    assert texts == {
        "a photo of a zwx, red, blue",
        "a photo of a zwx, blue, red",
        "zwx, red, blue by artist",
        "zwx, blue, red by artist",
    }


# What can be listed


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 1),
        ({"wildcards": True}, 4),
        ({"caption_lines": "draw", "wildcards": True}, 5),
        ({"templates": ["one {caption}", "two {caption}"], "wildcards": True}, 8),
        ({"templates": ["one", "two"], "wildcards": True}, 2),
    ],
)
def test_all_that_can_be_drawn_is_listed_and_nothing_else(options, count):
    text = "{a|b} {c|d}\nother" if "caption_lines" in options else "{a|b} {c|d}"
    listed = possible(text, **options)
    assert len(listed) == count
    assert {treat(text, sample_id, **options) for sample_id in IDS[:300]} == set(listed)


@pytest.mark.parametrize("option", [{"shuffle_tags": True}, {"tag_dropout": 0.1}])
def test_captions_whose_tags_change_are_not_listed(option):
    assert possible("a, b", **option) is None


def test_too_many_captions_are_not_listed():
    assert possible("{a|b}{a|b}{a|b}{a|b}{a|b}{a|b}", wildcards=True) is not None
    assert possible("{a|b}" * 7, wildcards=True) is None
