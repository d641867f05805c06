import pytest
from pydantic import ValidationError

from sdtune.config.validation import ValidationOptions


def test_nothing_is_held_out_unless_asked_for():
    assert not ValidationOptions().is_wanted
    assert ValidationOptions(split=0.1).is_wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": 0.1, "path": "val"}, "either path or split"),
        ({"every_steps": 10}, "does nothing without images"),
        ({"patience": 3}, "does nothing without images"),
        ({"split": 1.0}, "less than 1"),
        ({"split": 0.0}, "greater than 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        ValidationOptions(**options)
