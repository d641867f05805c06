"""When d has stopped growing: a rule over steps and values."""

from itertools import accumulate

import pytest

from sdtune.train.rate_search.plateau import FEWEST_STEPS, GROWTH, find_plateau, flat_steps, is_plateau

START = 1e-6


def steps(values):
    return list(range(1, len(values) + 1))


def first_plateau(values):
    """Give the step at which a probe would stop."""
    return next((step for step in steps(values) if is_plateau(steps(values), values, step - 1)), None)


def growing(rate, count):
    return [START * (1 + rate) ** step for step in range(count)]


@pytest.mark.parametrize("risen", [5, 40, 100, 200])
def test_a_curve_that_rises_and_stays_is_settled_once_it_was_flat_for_long_enough(risen):
    values = growing(0.25, risen)
    values += [values[-1]] * 200
    stop = first_plateau(values)
    assert stop >= max(FEWEST_STEPS, risen + flat_steps(stop) - 1)
    assert stop <= max(FEWEST_STEPS, risen / 0.75 + 21)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1, 1])
def test_a_curve_that_keeps_growing_never_settles(rate):
    assert first_plateau(growing(rate, 400)) is None
    assert find_plateau(steps(growing(rate, 400)), growing(rate, 400)) is None


def test_a_curve_that_never_left_its_start_is_no_plateau():
    assert find_plateau(list(range(1, 401)), [START] * 400) is None
    barely = [START] * 200 + [START * 1.9] * 200
    assert find_plateau(steps(barely), barely) is None


def test_what_comes_after_a_pause_is_waited_for():
    stairs = list(accumulate(range(300), lambda value, step: value * (1.5 if step % 15 == 0 else 1), initial=START))
    assert first_plateau(stairs) is None
    late = [*stairs, *[stairs[-1]] * 200]
    assert first_plateau(late) > len(stairs)


def test_growth_below_the_limit_is_none():
    values = [*growing(0.5, 30), *(growing(0.5, 30)[-1] * (1 + GROWTH * k / 10_000) for k in range(200))]
    assert first_plateau(values) is not None


def test_scale_does_not_matter():
    values = [*growing(0.1, 80), *[growing(0.1, 80)[-1]] * 60]
    assert first_plateau(values) == first_plateau([value * 1e4 for value in values])


def test_the_last_plateau_counts():
    low, high = START * 100, START * 1000
    values = [START, *[low] * 99, *[high] * 99, *growing(0.5, 20)]
    values = [*values[:199], *(high * 1.1**k for k in range(1, 20))]
    assert values[find_plateau(steps(values), values)] == high


def test_a_log_of_every_tenth_step_tells_the_same():
    values = [*growing(0.1, 100), *[growing(0.1, 100)[-1]] * 100]
    sparse = [(step, value) for step, value in zip(steps(values), values, strict=True) if step % 10 == 0]
    place = find_plateau([step for step, _ in sparse], [value for _, value in sparse])
    assert sparse[place] == (200, values[-1])


def test_nothing_is_settled_early_and_an_empty_log_is_no_error():
    values = [START, *[1.0] * 200]
    assert first_plateau(values) == FEWEST_STEPS
    assert find_plateau([], []) is None
