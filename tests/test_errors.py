import pytest

from sdtune.errors import DataError, PlatformError, Problems


def test_problems_are_raised_together():
    problems = Problems(DataError)
    for name in ("a", "b"):
        with problems.collect():
            raise DataError(f"{name} is bad")
    with pytest.raises(DataError, match="a is bad\nb is bad"):
        problems.raise_if_any()


def test_what_is_the_machines_fault_is_not_taken_for_the_inputs():
    with pytest.raises(PlatformError, match="disk is full"), Problems(DataError).collect():
        raise PlatformError("the disk is full")
