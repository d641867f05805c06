from __future__ import annotations

import pytest

from sdtune.config.arithmetic import calculate
from sdtune.errors import ConfigError


@pytest.mark.parametrize(
    "text",
    ["512*768", "1+2*3", "(1+2)*3", "7//2", "7%3", "7/2", "2**10", "-3", "+3", "1e-4*2", "2**-1", "1_000", " 1 "],
)
def test_arithmetic_is_that_of_python(text):
    expected = eval(text)
    assert (type(calculate(text)), calculate(text)) == (type(expected), expected)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "__import__('os')",
            "os",
            "a.b",
            "[1]",
            "lambda: 1",
            "1 if 1 else 2",
            "'a'",
            "1j",
            "True",
            "e",
            "1 < 2",
            "~1",
        ),
        *(
            "",
            "1/0",
            "1//0",
            "0**-1",
            "(-1)**0.5",
            "9**9**9",
            "2**2000",
            "1e300**2",
            "1+",
            "(" * 150,
            "1" * 300,
            "1<<99",
        ),
    ],
)
def test_all_else_is_refused(text):
    with pytest.raises(ConfigError):
        calculate(text)
