from itertools import chain

import pytest

from sdtune.train.assembly.timetable import MicroStep, Timetable


def make(batches=7, accumulation=3, **length):
    return Timetable.plan(batches_per_epoch=batches, accumulation=accumulation, **length)


def test_epochs_become_steps():
    assert make(epochs=4).steps == 12


def test_the_earlier_end_wins():
    assert make(epochs=4, steps=5).steps == 5


def test_every_batch_of_every_epoch_is_used_once_in_order():
    table = make(epochs=3)
    seen = list(chain.from_iterable(table.micro_steps(step) for step in range(table.steps)))
    assert seen == [MicroStep(epoch, batch) for epoch in range(3) for batch in range(7)]


def test_a_step_never_mixes_epochs():
    table = make(epochs=3)
    assert [len(table.micro_steps(step)) for step in range(3)] == [3, 3, 1]


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (3, 1), (4, 2), (9, 3), (10, 4)])
def test_a_started_epoch_counts(steps, epochs):
    assert make(steps=steps).epochs == epochs


def test_epoch_ends_are_found():
    table = make(epochs=2)
    assert [done for done in range(1, 7) if table.ends_epoch(done)] == [3, 6]
    assert table.epochs_done(5) == 1
