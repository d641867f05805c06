from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdtune.config.compose import compose_schema, load
from sdtune.config.dump import dump, to_dict


@pytest.fixture
def reload(registry, tmp_path):
    def run(text: str):
        path = tmp_path / "resolved.yaml"
        path.write_text(text, encoding="utf-8", newline="")
        return load(registry, path)

    return run


@pytest.fixture
def schema(registry):
    return compose_schema(registry.method("lora"))


def test_the_defaults_load_back_equal(schema, reload):
    assert reload(dump(schema())).options == schema()


def test_any_text_loads_back_equal(schema, reload, any_text):
    options = schema.model_validate(
        {
            "output": {"comment": any_text},
            "preview": {"prompts": [any_text, "a"], "negative": any_text},
            "data": {"subsets": [{"path": "a", "class_text": any_text}, {"path": any_text, "weight": 0.1}]},
            "lora": {"block_ranks": {any_text: 3, "b": 4}, "mode": any_text},
        }
    )
    assert reload(dump(options)).options == options


@pytest.mark.parametrize("number", [0.1, 1e-8, 1e300, 3.0, 1 / 3, 5e-324])
def test_any_number_loads_back_equal(schema, reload, number):
    options = schema.model_validate({"lora": {"alpha": number, "mode": number}, "train": {"seed": 2**63 - 1}})
    assert reload(dump(options)).options == options


def test_comments_tell_origins_and_break_nothing(load_text, reload):
    loaded = load_text("train: {lr: 0.5}", "output.comment='# a: \\x1b\n${lora.rank}'", "data.path=é")
    text = dump(loaded.options, loaded.origins)
    assert "  lr: 0.5  # run.yaml:1\n" in text
    assert "\x1b" not in text
    assert reload(text).options == loaded.options


def test_what_is_dumped_is_dumped_again_the_same(load_text, reload):
    text = dump(load_text("data: {subsets: [{path: a}, {path: b}]}\nlora: {block_ranks: {a.b: 1}}").options)
    assert dump(reload(text).options) == text


def test_plain_data_is_fit_for_json(schema):
    data = to_dict(schema(data={"path": Path("a")}))
    assert json.loads(json.dumps(data)) == data
