"""The table of kohya's options: complete, and true to our own names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sdtune_dreambooth
import sdtune_hypernetwork
import sdtune_lora
import sdtune_lycoris
import sdtune_textual_inversion
from sdtune.cli.main import COMMANDS
from sdtune.cli.train import train
from sdtune.config.describe import describe
from sdtune.config.schema import CoreOptions
from sdtune.plugins import Registry

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "kohya-options.md").read_text(encoding="utf-8")
NAMES = (ROOT / "tests" / "golden" / "kohya-options.txt").read_text(encoding="utf-8").split()
ROWS = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
PLUGINS = (sdtune_dreambooth, sdtune_hypernetwork, sdtune_lora, sdtune_lycoris, sdtune_textual_inversion)
FILES = (".py", ".yaml", ".txt", ".ckpt", ".caption")


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Names of all our options, commands and flags."""
    methods = Registry.from_plugins(PLUGINS).methods()
    options = {doc.name for doc in describe(CoreOptions)}
    for spec in methods.values():
        options |= {spec.name} | {f"{spec.name}.{doc.name}" for doc in describe(spec.config)}
    sections = {name.rpartition(".")[0] for name in options}
    flags = {flag for parameter in train.params for flag in parameter.opts}
    return options | sections | flags | {f"sdtune {name}" for name in COMMANDS}


def test_every_option_of_kohyas_scripts_has_one_row() -> None:
    assert sorted(name for name, _, _ in ROWS) == sorted(NAMES)
    assert len(set(NAMES)) == len(NAMES)


def test_each_row_names_one_of_ours_or_says_why_there_is_none() -> None:
    unexplained = [
        name
        for name, ours, text in ROWS
        if not (re.fullmatch("`[^`]+`", ours) or (ours == "–" and text.startswith(("Not needed", "Not yet"))))
    ]
    assert unexplained == []


def test_what_is_named_as_ours_exists(known: set[str]) -> None:
    ours = {name.strip("`") for _, name, _ in ROWS} - {"–"}
    behind = PAGE.rpartition("|\n")[2]
    told = re.findall(r"`([^`]+)`", " ".join(text for _, _, text in ROWS) + behind)
    words = {word for word in told if ("." in word or " " in word) and not word.endswith(FILES) and "[" not in word}
    words = {" ".join(word.split()[:2]) for word in words} - {"text_encoder.*", "text_encoder_2.*"}
    flags = {word for word in told if word.startswith("--")}
    assert sorted((ours | words | flags) - known) == []


def test_a_row_refers_to_rows_that_exist() -> None:
    sought = {word for _, _, text in ROWS for word in re.findall(r"(?:as|see|As) `(\w+)`", text)}
    assert sorted(sought - set(NAMES)) == []
