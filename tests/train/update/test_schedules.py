"""Schedules against those of transformers, diffusers and PyTorch."""

import math

import diffusers.optimization
import pytest
import torch
import transformers.optimization

from sdtune.config.optimizer import ScheduleOptions
from sdtune.errors import ConfigError
from sdtune.train.update.schedules import make_shape

STEPS = 200


def rates(make, steps=STEPS, **options):
    """What a scheduler of torch's kind makes of a rate of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = make(optimizer, **options)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def ours(steps=STEPS, **options):
    shape = make_shape(ScheduleOptions(**options), steps)
    return [shape(step) for step in range(steps)]


def theirs(name, **options):
    return rates(lambda optimizer: transformers.optimization.get_scheduler(name, optimizer, **options))


@pytest.mark.parametrize("warmup", [0, 1, 20])
@pytest.mark.parametrize(
    ("name", "own", "specific"),
    [
        ("constant_with_warmup", {}, {}),
        ("linear", {}, {}),
        ("cosine", {}, {}),
        ("cosine_with_restarts", {"cycles": 3}, {"num_cycles": 3}),
        ("polynomial", {"power": 2.0, "min_ratio": 0.1}, {"power": 2.0, "lr_end": 0.1}),
        ("cosine_with_min_lr", {"min_ratio": 0.1}, {"min_lr_rate": 0.1}),
        ("inverse_sqrt", {}, {}),
        ("inverse_sqrt", {"timescale": 30}, {"timescale": 30}),
        ("warmup_stable_decay", {"decay": 50}, {"num_decay_steps": 50}),
        ("warmup_stable_decay", {"decay": "20%", "min_ratio": 0.0}, {"num_decay_steps": 40, "min_lr_ratio": 0.0}),
    ],
)
def test_a_schedule_equals_that_of_transformers(name, own, specific, warmup):
    expected = theirs(name, num_warmup_steps=warmup, num_training_steps=STEPS, scheduler_specific_kwargs=specific)
    assert ours(name=name, warmup=warmup, **own) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_a_schedule_with_steps_of_its_own_equals_that_of_diffusers():
    expected = rates(lambda o: diffusers.optimization.get_piecewise_constant_schedule(o, "1:10,0.1:120,0.01"))
    assert ours(name="piecewise_constant", factors="1:10, 0.1:120, 0.01") == expected


@pytest.mark.parametrize(("warmup", "rise"), [(0, 0.3), (20, 0.1), ("50%", 0.5)])
def test_one_cycle_equals_that_of_pytorch(warmup, rise):
    expected = rates(
        torch.optim.lr_scheduler.OneCycleLR,
        STEPS - 1,
        max_lr=1.0,
        total_steps=STEPS,
        pct_start=rise,
        cycle_momentum=False,
    )
    assert ours(name="one_cycle", warmup=warmup)[:-1] == pytest.approx(expected, rel=1e-9)


def test_rex_follows_its_paper():
    found = ours(name="rex")
    z = [1 - step / STEPS for step in range(STEPS)]
    assert found == pytest.approx([share / (1 / 2 + share / 2) for share in z])
    assert min(a - b for a, b in zip(found, ours(name="linear"), strict=True)) >= 0


@pytest.mark.parametrize("warmup", [20, 0.1, "10%"])
def test_a_warmup_is_steps_a_fraction_or_a_percentage(warmup):
    assert ours(warmup=warmup) == [min(1.0, step / 20) for step in range(STEPS)]


@pytest.mark.parametrize("name", ScheduleOptions.model_fields["name"].annotation.__args__)
@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("steps", [7, 8, 200])
def test_no_schedule_leaves_0_to_1(name, warmup, steps):
    factors = "1:3, 0.5" if name == "piecewise_constant" else None
    decay = 1 if name == "warmup_stable_decay" else "20%"
    found = ours(steps, name=name, warmup=warmup, factors=factors, decay=decay)
    assert all(0 <= value <= 1 and math.isfinite(value) for value in found)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("name", ["linear", "cosine", "rex", "one_cycle", "warmup_stable_decay"])
def test_the_shortest_runs_learn(name, steps):
    assert ours(steps, name=name)[0] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup": 10}, "warmup: 10 is 10 steps, which leaves nothing of 10"),
        ({"warmup": "100%"}, "warmup: 100% is 10 steps"),
        ({"name": "warmup_stable_decay", "warmup": 5, "decay": 6}, "decay: 6 is 6 steps"),
    ],
)
def test_a_warmup_as_long_as_the_run_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make_shape(ScheduleOptions(**options), 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cosine", "power": 2}, "power has no effect with cosine; it is for polynomial"),
        ({"name": "linear", "cycles": 2}, "cycles has no effect with linear"),
        ({"name": "piecewise_constant"}, "piecewise_constant needs factors"),
        ({"name": "piecewise_constant", "factors": "2:10, 1"}, "factors up to 1"),
        ({"warmup": "x"}, "number of steps, a fraction of the run such as 0.1"),
        ({"warmup": 1.5}, "number of steps"),
        ({"warmup": "101%"}, "number of steps"),
    ],
)
def test_options_that_a_curve_has_not_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ScheduleOptions(**options)
