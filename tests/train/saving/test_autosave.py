import pytest

from sdtune.train.saving import autosave
from sdtune.train.saving.autosave import SaveClock


@pytest.fixture
def clock(monkeypatch):
    """Give a clock that stands still: its one item is the time."""
    now = [1000.0]
    monkeypatch.setattr(autosave.time, "monotonic", lambda: now[0])
    return now


def test_a_save_is_due_after_so_many_minutes(clock):
    saves = SaveClock(5)
    clock[0] += 299
    assert not saves.is_due
    clock[0] += 1
    assert saves.is_due


def test_a_save_starts_the_count_anew(clock):
    saves = SaveClock(5)
    clock[0] += 300
    with saves.saving():
        clock[0] += 2
    assert not saves.is_due
    assert saves.took_ms == 2000
    clock[0] += 300
    assert saves.is_due


def test_long_saves_take_a_twentieth_of_the_time_at_most(clock):
    saves = SaveClock(5)
    with saves.saving():
        clock[0] += 60
    clock[0] += 19 * 60
    assert not saves.is_due
    clock[0] += 60
    assert saves.is_due


def test_without_minutes_none_is_due(clock):
    saves = SaveClock(None)
    clock[0] += 10**6
    assert not saves.is_due
