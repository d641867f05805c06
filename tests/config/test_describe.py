from __future__ import annotations

import pytest

from sdtune.config.compose import compose_schema
from sdtune.config.describe import defaults_of, describe
from sdtune.config.dump import to_dict
from sdtune.config.schema import CoreOptions


@pytest.fixture
def options(registry):
    return describe(compose_schema(registry.method("lora")))


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("train.lr", "number or text, 0 to 1000"),
        ("train.steps", "whole number, at least 1, or null"),
        ("train.seed", "whole number, at least 0"),
        ("save.dtype", "one of fp32, fp16, bf16"),
        ("data.path", "path or null"),
        ("data.flip", "true or false"),
        ("data.subsets", "list of sections"),
        ("data.subsets.3.repeats", "number, above 0, at most 10000, or null"),
        ("preview.prompts", "list of texts"),
        ("train.optimizer.betas", "list of numbers, at most 3 items, or null"),
        ("lora.block_ranks", "mapping"),
        ("lora.window", "list of 2"),
        ("lora.mode", "text or number"),
    ],
)
def test_what_an_option_takes_is_told_in_words(options, name, takes):
    assert options.find(tuple(name.split("."))).takes == takes


def test_every_option_of_the_core_is_described():
    assert [doc.name for doc in describe(CoreOptions) if not doc.description] == []


def test_the_defaults_are_those_of_the_schema():
    assert defaults_of(CoreOptions) == to_dict(CoreOptions())


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        *[("train.stpes", "steps"), ("learning.lr", "train.lr"), ("rank", "lora.rank"), ("data.bucket", "buckets")],
        *[("trian", "train"), ("qqqq", ""), ("data.subsets.0.pth", "path")],
    ],
)
def test_the_nearest_option_is_suggested(options, wrong, meant):
    assert options.suggest(tuple(wrong.split("."))) == meant
