import time

from sdtune.train.machine.clock import Clock


def test_the_time_goes_on_when_the_systems_clock_is_set_back(monkeypatch):
    clock = Clock()
    first = clock.now()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert clock.now() >= first >= clock.started_at
