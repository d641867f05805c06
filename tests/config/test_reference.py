from __future__ import annotations

from pathlib import Path

import pytest

from sdtune.config.compose import load
from sdtune.config.reference import options_page, template
from sdtune.config.yaml import read_options

ROOT = Path(__file__).parents[2]


def test_the_page_of_options_is_up_to_date():
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page == options_page(), "write it again: python -m sdtune.config.reference > docs/options.md"


@pytest.mark.parametrize("level", ["novice", "expert"])
def test_a_template_changes_the_data_path_and_the_length_only(registry, tmp_path, level):
    path = tmp_path / "run.yaml"
    path.write_text(template(registry.method("lora"), level), encoding="utf-8")
    changed = load(registry, path, overrides=["data.path=---", "train.steps=---"]).options
    assert changed == load(registry).options


def test_the_template_for_novices_has_what_everybody_needs(registry):
    text = template(registry.method("lora"), "novice")
    tree = read_options(text, "new")
    options = [line for line in text.splitlines() if ": " in line and not line.lstrip().startswith("#")]
    assert 15 <= len(options) <= 20
    assert tree.find(("lora", "rank")).value == 16


def test_the_template_for_experts_has_everything(registry, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(template(registry.method("lora"), "expert"), encoding="utf-8")
    assert "default" not in load(registry, path).origins.values()


def test_a_template_says_what_must_be_given(registry):
    assert "  # token: must be given\n" in template(registry.method("words"), "novice")
