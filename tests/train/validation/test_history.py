import math

import pytest

from sdtune.config.validation import ValidationOptions
from sdtune.train.assembly.timetable import Timetable
from sdtune.train.validation.choice import due_steps
from sdtune.train.validation.history import History, Measurement
from sdtune.train.validation.measuring import ValidationResult, compare


def result(*losses):
    return ValidationResult(images={f"{n}.png": loss for n, loss in enumerate(losses)}, bins=(1.0, 2.0))


@pytest.fixture
def history(tmp_path):
    def history(*losses):
        found = History(tmp_path / "validation.jsonl")
        for number, loss in enumerate(losses):
            found.add(Measurement(step=number * 10, result=result(loss)), 0.1)
        return found

    return history


def test_the_base_is_never_the_best(history):
    found = history(0.1, 0.5, 0.3, 0.4)
    assert (found.base.step, found.best.step, found.waited(0.0)) == (0, 20, 1)


def test_a_loss_that_is_no_number_is_never_the_best(history):
    assert history(0.1, math.nan).best is None
    assert history(0.1, math.nan, 0.5).best.step == 20


def test_small_gains_do_not_count_against_patience(history):
    found = history(1.0, 0.50, 0.49, 0.48, 0.30)
    assert (found.best.step, found.waited(0.0), found.waited(0.1)) == (40, 0, 0)
    assert history(1.0, 0.50, 0.49, 0.48).waited(0.1) == 2


def test_what_is_read_back_is_what_was_measured_up_to_the_step(history, tmp_path):
    written = history(0.1 + 0.2, 1 / 3, 2 / 3)
    path = tmp_path / "validation.jsonl"
    path.write_text(path.read_text() + '{"step": 3')
    found = History(path)
    found.load(10)
    assert found.measured == written.measured[:2]
    assert len(path.read_text().splitlines()) == 2


def test_images_are_compared_one_by_one():
    first, second = result(1.0, 5.0, 9.0), result(0.9, 4.9, 8.9)
    gain = compare(first, second)
    assert gain.mean == pytest.approx(0.1)
    assert gain.is_clear
    assert first.standard_error > 2
    assert not compare(result(1.0, 5.0), result(1.1, 4.7)).is_clear
    assert not compare(result(1.0), result(0.5)).is_clear


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"every_steps": 20}, {0, 20, 40, 45}),
        ({"every_epochs": 2}, {0, 20, 40, 45}),
        ({"every_steps": 100}, {0, 45}),
        ({}, {0, *range(4, 45, 4), 45}),
    ],
)
def test_the_base_and_the_last_step_are_always_due(options, steps):
    table = Timetable(batches_per_epoch=10, accumulation=1, steps=45)
    assert due_steps(ValidationOptions(split=0.1, **options), table) == steps
