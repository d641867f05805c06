"""Trainings give the numbers they gave before; a mistake as small as it can be gives others."""

from __future__ import annotations

import pytest
from golden_mistakes import MISTAKES, Mistake
from golden_runs import HERE, TOLERANCE, Case, deviations, list_cases, read_golden, record

CASES = list_cases()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Models and pictures, written once."""
    return tmp_path_factory.mktemp("golden")


def test_each_golden_file_has_its_training():
    assert {case.path for case in CASES} == set(HERE.glob("*/*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_training_gives_the_numbers_it_gave_before(folder, case: Case):
    found = deviations(record(case, folder), read_golden(case))
    assert {name: value for name, value in found.items() if not value <= TOLERANCE} == {}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_small_mistake_is_seen(folder, monkeypatch, mistake: Mistake):
    case = next(case for case in CASES if str(case) == mistake.case)
    if mistake.patch is not None:
        mistake.patch(monkeypatch)
    found = deviations(record(case, folder, *mistake.options), read_golden(case))
    assert max(found.values()) > 2 * TOLERANCE
