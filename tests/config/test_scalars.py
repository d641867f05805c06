from __future__ import annotations

import math

import pytest

from sdtune.config.scalars import printable, read_scalar, write_scalar
from sdtune.config.tree import Mark
from sdtune.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1e-4", 1e-4), ("1E5", 1e5), (".5", 0.5), ("1.", 1.0), ("-.inf", -math.inf), ("+12", 12), ("007", 7)],
        *[("0o17", 15), ("0x1F", 31), ("true", True), ("FALSE", False), ("", None), ("~", None), ("null", None)],
        *[("16:9", "16:9"), ("on", "on"), ("yes", "yes"), ("no", "no"), ("1_000", "1_000"), ("0b1", "0b1")],
        *[("2024-01-01", "2024-01-01"), ("tRUE", "tRUE"), ("-0x1F", "-0x1F"), ("<<", "<<"), ("=", "=")],
        *[("１", "１"), ("---", Mark.DELETE)],
    ],
)
def test_scalars_are_read_as_yaml_1_2_reads_them(text, value):
    read = read_scalar(text)
    assert (type(read), read) == (type(value), value)


def test_nan_is_read():
    assert math.isnan(read_scalar(".nan"))


def test_an_endless_number_is_refused():
    with pytest.raises(ConfigError, match="5000 digits"):
        read_scalar("9" * 5000)


def test_control_characters_do_not_reach_the_terminal():
    assert printable("a\x1b[31m\nb") == "a\\x1b[31m\\nb"


def test_ordinary_words_are_written_without_quotes():
    assert write_scalar("runs/a (1).b") == "runs/a (1).b"
