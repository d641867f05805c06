"""Rates compared on held-out images: the grid, the table, and what it takes."""

import math

import pytest

from sdtune.config.schema import CoreOptions
from sdtune.config.validation import ValidationOptions
from sdtune.train.rate_search.comparison import FEWEST_IMAGES, Comparison, Outcome, grid, with_held_out
from sdtune.train.validation.measuring import ValidationResult


def outcome(rate, *losses):
    result = ValidationResult(images={str(number): loss for number, loss in enumerate(losses)}, bins=())
    return Outcome(rate=rate, result=result)


def test_the_grid_goes_from_a_tenth_to_ten_times():
    assert grid(3e-4, 5) == (3e-5, 1e-4, 3e-4, 9e-4, 3e-3)


@pytest.mark.parametrize("count", range(1, 10))
def test_a_grid_has_the_rate_itself_and_rises(count):
    rates = grid(3.64e-5, count)
    assert len(set(rates)) == count
    assert list(rates) == sorted(rates)
    assert 3.64e-5 in rates


def test_the_lowest_loss_is_best_and_what_is_clearly_worse_is_told():
    made = Comparison(outcomes=(outcome(1e-5, 0.5, 0.61, 0.7), outcome(1e-4, 0.3, 0.4, 0.5)), steps=60, images=3)
    assert made.best.rate == 1e-4
    assert made.describe()[-1] == "best: 1.00e-04 = 0.0001"
    assert "clear" in made.describe()[1]


def test_a_difference_within_noise_is_told_with_the_rivals():
    made = Comparison(outcomes=(outcome(1e-5, 0.5, 0.1, 0.7), outcome(1e-4, 0.3, 0.4, 0.5)), steps=60, images=3)
    assert made.best.rate == 1e-4
    assert made.describe()[-1].endswith("1.00e-05 may be as good: the difference is within noise")


def test_what_diverged_is_listed_and_never_best():
    nan = outcome(1e-3, math.nan, 0.1)
    made = Comparison(outcomes=(outcome(1e-4, 0.3, 0.4), nan, Outcome(rate=1e-2, result=None)), steps=60, images=2)
    assert made.best.rate == 1e-4
    assert [line.strip() for line in made.describe()[2:4]] == ["1.00e-03  diverged", "1.00e-02  diverged"]
    assert [row["loss"] for row in made.to_dict()["outcomes"]] == [pytest.approx(0.35), None, None]


def test_when_all_diverged_there_is_no_best():
    made = Comparison(outcomes=(Outcome(rate=1e-2, result=None),), steps=60, images=4)
    assert made.best is None
    assert made.describe()[-1] == "every rate diverged"


def test_images_are_held_out_unasked_when_there_are_enough():
    assert with_held_out(CoreOptions(), FEWEST_IMAGES - 1) is None
    assert with_held_out(CoreOptions(), FEWEST_IMAGES).validation.split == 0.25
    assert with_held_out(CoreOptions(), 200).validation.split == 0.1


def test_what_the_user_holds_out_stays():
    own = CoreOptions(validation=ValidationOptions(split=0.3, patience=2))
    assert with_held_out(own, 5).validation == ValidationOptions(split=0.3)
