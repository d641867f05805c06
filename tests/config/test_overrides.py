from __future__ import annotations

import pytest

from sdtune.config.overrides import Setting, is_override


def flag(option: str, value: object) -> Setting:
    return Setting(option=option, value=value, flag=f"--{option.rsplit('.', 1)[-1]}")


def test_later_layers_win_over_earlier_ones(load_text):
    text = "train: {lr: 1, steps: 2, batch_size: 3}"
    loaded = load_text(text, "train.lr=10", flags=(flag("train.lr", 5), flag("train.steps", 6)))
    names = ("train.lr", "train.steps", "train.batch_size", "train.seed")
    assert [loaded.origins[name] for name in names] == ["train.lr=10", "--steps", "run.yaml:1", "default"]
    assert (loaded.options.train.lr, loaded.options.train.steps) == (10, 6)


def test_the_last_of_two_overrides_wins(load_text):
    assert load_text("", "train.lr=1", "train.lr=2").options.train.lr == 2


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("output.comment=a: b # c", "a: b # c"),
        ("output.comment='1'", "1"),
        ("output.comment=1e3", "1e3"),
        ("output.comment=on", "on"),
        ("output.comment=a=b", "a=b"),
        ("output.comment=", ""),
        ('output.comment="a\\tb"', "a\tb"),
        ("output.comment=${lora.rank}/2", "16/2"),
        ("output.comment=*a", "*a"),
        ("output.comment=!!str a", "!!str a"),
    ],
)
def test_the_value_is_a_plain_scalar_to_its_end_or_a_quoted_one(load_text, word, value):
    assert load_text("", word).options.output.comment == value


def test_lists_and_mappings_stand_in_brackets(load_text):
    loaded = load_text("", "preview.prompts=[a, 'b, c', 1]", "lora.block_ranks={mid: 4}")
    assert (loaded.options.preview.prompts, loaded.options.lora.block_ranks) == (("a", "b, c", "1"), {"mid": 4})
    assert loaded.origins["preview.prompts"] == "preview.prompts=[a, 'b, c', 1]"


def test_an_item_of_a_list_is_set_by_its_index(load_text):
    loaded = load_text("data: {subsets: [{path: a}, {path: b}]}", "data.subsets.1.repeats=5")
    assert [subset.repeats for subset in loaded.options.data.subsets] == [None, 5]


def test_an_item_of_a_list_that_is_not_written_is_set(load_text):
    loaded = load_text("", "lora.window.1=0.5")
    assert loaded.options.lora.window == (0.9, 0.5)
    assert loaded.origins["lora.window"] == "default, lora.window.1=0.5"


def test_dashes_set_the_default_again(load_text):
    text = "train: {lr: 1}\ndata: {subsets: [{path: a}, {path: b}]}"
    loaded = load_text(text, "train.lr=---", "data.subsets.0=---", "log=---")
    assert (loaded.options.train.lr, loaded.origins["train.lr"]) == (1e-4, "default")
    assert [str(subset.path) for subset in loaded.options.data.subsets] == ["b"]


def test_text_from_a_flag_is_taken_as_it_is(load_text):
    loaded = load_text("", flags=(flag("output.comment", "${a} --- 'x'"), flag("preview.prompts", ["1", "---"])))
    assert (loaded.options.output.comment, loaded.options.preview.prompts) == ("${a} --- 'x'", ("1", "---"))


def test_bad_words_are_reported_together(problems_of):
    assert problems_of("", "train.lr", "=5", "a b=3", "lora.mode=[a", "x" + ".x" * 40 + "=1") == [
        "expected NAME=VALUE, e.g. train.lr=1e-4 (train.lr)",
        "expected NAME=VALUE, e.g. train.lr=1e-4 (=5)",
        "expected NAME=VALUE, e.g. train.lr=1e-4 (a b=3)",
        "lora.mode: not valid YAML: did not find expected ',' or ']'; put text in quotes (lora.mode=[a)",
        f"nested deeper than 32 levels ({'x' + '.x' * 40}=1)",
    ]


def test_places_that_do_not_exist_are_reported_together(problems_of):
    assert problems_of("train: 5\npreview: {prompts: [a]}", "train.lr=3", "preview.prompts.1=b", "train=---") == [
        "'lr' cannot be set in a single value (5) (train.lr=3)",
        "no item '1' in a list of 1; items count from 0 (preview.prompts.1=b)",
    ]


@pytest.mark.parametrize(("word", "answer"), [("a.b=c", True), ("./a=b.yaml", False), ("run.yaml", False)])
def test_overrides_are_told_from_files(word, answer):
    assert is_override(word) is answer
