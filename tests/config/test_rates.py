"""Learning rates in webui's notation, and when something stops learning."""

import math

import pytest
from pydantic import TypeAdapter, ValidationError

from sdtune.config.rates import LearningRate, parse_rates, stop_step


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("0.005", [0.005] * 6),
        ("0.01:2, 1e-3:4, 1e-4", [0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4]),
        ("0.1:5,0.01:-1", [0.1] * 5 + [0.01]),
        ("0.1:2", [0.1, 0.1, 0, 0, 0, 0]),
        (" 1e-3:1 , 0:3 , 2", [1e-3, 0, 0, 2, 2, 2]),
    ],
)
def test_a_rate_applies_before_its_step(text, rates):
    assert [parse_rates(text).at(step) for step in range(6)] == rates


@pytest.mark.parametrize(("text", "length"), [("0.005", math.inf), ("0.1:2", 2), ("0.1:2, 1:-1", math.inf)])
def test_rates_end_after_the_last_step(text, length):
    assert parse_rates(text).length == length


@pytest.mark.parametrize(
    "text", ["", "fast", "0.1:x", "0.1:0", "0.1:5, 0.2:5", "0.1, 0.2:5", "-1:5", "1001", "nan:3, 1"]
)
def test_what_is_no_list_of_rates_is_refused(text):
    with pytest.raises(ValidationError, match="must be"):
        TypeAdapter(LearningRate).validate_python(text)


@pytest.mark.parametrize(
    ("text", "spelled"), [("0.005:100, 1e-3", "0.005:100, 0.001"), ("1", "1.0"), ("2e-6", "2e-06")]
)
def test_rates_are_spelled_as_they_are_read(text, spelled):
    assert str(parse_rates(text)) == spelled
    assert parse_rates(spelled) == parse_rates(text)


def test_a_single_rate_is_a_number():
    assert TypeAdapter(LearningRate).validate_python("5e-3") == 0.005


@pytest.mark.parametrize(
    ("stop", "step"), [(0.5, 100), ("75%", 150), (30, 30), ("30", 30), (1, 200), (0, 0), (999, 200)]
)
def test_a_stop_is_a_step_a_fraction_or_a_percentage(stop, step):
    assert stop_step(stop, 200) == step


@pytest.mark.parametrize("stop", [-1, 2.5, "120%", "late"])
def test_what_is_no_stop_is_refused(stop):
    with pytest.raises(ValueError, match="must be"):
        stop_step(stop, 200)
