"""Rates read from logs, and how they are told."""

import json

import pytest
import torch
from torch import nn

from sdtune.config.optimizer import OptimizerOptions
from sdtune.config.optimizers import ESTIMATORS, find_entry
from sdtune.config.train import TrainOptions
from sdtune.errors import ConfigError
from sdtune.train.method import ParamGroup
from sdtune.train.rate_search.found_rate import RateLog, both, describe_all, read_rates, rounded
from sdtune.train.saving.folder import RunFolder
from sdtune.train.update.optimizers import build_optimizer
from sdtune.train.update.rates import group_rates, logged_rates, set_rates


def logged(factors, *, lr=(1.0,), groups=("unet",)):
    log = RateLog()
    for step, d in enumerate(factors, 1):
        factor = lr[min(step, len(lr)) - 1]
        log.add(step, {**dict.fromkeys(groups, factor), **{f"d*lr/{name}": d * factor for name in groups}})
    return log


def test_a_rate_is_told_in_both_notations_that_mean_the_same():
    assert both(3.64e-5) == "3.64e-05 = 0.0000364"
    left, right = both(rounded(0.00123456)).split(" = ")
    assert float(left) == float(right) == 0.00123


def test_the_value_at_the_plateau_is_found():
    (found,) = logged([1e-6, *[2e-4] * 80]).found()
    assert (found.rate, found.d, found.is_settled, found.step) == (2e-4, 2e-4, True, 81)
    assert (found.lowest, found.highest) == (6.67e-5, 6e-4)


def test_a_schedule_that_falls_does_not_hide_the_plateau():
    falling = [1 - step / 100 for step in range(90)]
    (found,) = logged([1e-6, *[2e-4] * 89], lr=falling).found()
    assert found.is_settled
    assert found.rate == 2e-4


def test_steps_before_a_plateau_are_told_as_such():
    (found,) = logged([1e-6 * 1.5**step for step in range(20)]).found()
    assert not found.is_settled
    assert found.has_begun
    assert "no plateau yet after 20 steps" in "\n".join(found.describe())


def test_an_estimate_that_never_began_gives_no_rate():
    (found,) = logged([1e-6] * 100).found()
    assert not found.has_begun
    assert found.describe() == ["no rate found in 100 steps: d is 1e-06, about where it began"]


def test_growth_after_the_plateau_is_told():
    (found,) = logged([1e-6, *[2e-4] * 80, *(2e-4 * 1.2**step for step in range(1, 10))]).found()
    assert (found.rate, found.steps) == (2e-4, 90)
    assert "grown again until step 90" in found.describe()[-1]


def test_groups_are_told_apart_only_where_they_differ():
    log = logged([1e-6, *[2e-4] * 80], groups=("unet", "text_encoder"))
    assert len(describe_all(log.found())) == 3
    log.add(82, {"unet": 1.0, "d*lr/unet": 2e-4, "text_encoder": 1.0, "d*lr/text_encoder": 3e-4})
    assert [line.split(":")[0] for line in describe_all(log.found())] == ["unet"] * 3 + ["text_encoder"] * 3


@pytest.fixture
def folder(tmp_path):
    def write(*lines):
        (tmp_path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return RunFolder(tmp_path)

    return write


def test_a_log_with_a_torn_last_line_is_read(folder):
    lines = [json.dumps({"step": 1, "lr/unet": 1.0, "lr/d*lr/unet": 1e-6, "lr/d*lr": 1e-6})]
    lines += [json.dumps({"step": step, "lr/unet": 1.0, "lr/d*lr/unet": 1e-4}) for step in range(2, 90)]
    (found,) = read_rates(folder(*lines, '{"step": 90, "lr/un'))
    assert (found.group, found.rate, found.steps) == ("unet", 1e-4, 89)


def test_a_run_of_another_optimizer_is_told(folder):
    with pytest.raises(ConfigError, match=r"finds no learning rate.*sdtune lr probe"):
        read_rates(folder(json.dumps({"step": 1, "lr/unet": 1e-4})))


def test_a_run_without_steps_is_told(folder):
    with pytest.raises(ConfigError, match="no step is logged yet"):
        read_rates(folder())


def estimate(name, scale):
    """Estimate the rate of a sum of squares whose solution is `scale` away from the start in each coordinate."""
    draw = torch.Generator().manual_seed(0)
    goals = [scale * torch.sign(torch.randn(64, generator=draw)) for _ in range(2)]
    weights = [nn.Parameter(torch.zeros(64)) for _ in range(2)]
    groups = [
        ParamGroup(name=part, part=part, params={part: weight})
        for part, weight in zip(("unet", "text_encoder"), weights, strict=True)
    ]
    train = TrainOptions(lr=1.0, optimizer=OptimizerOptions(name=name))
    optimizer, rates = build_optimizer(groups, train), [group_rates(group, train) for group in groups]
    log = RateLog()
    for step in range(1, 300):
        set_rates(optimizer, rates, lambda _: 1.0, step)
        log.add(step, logged_rates(optimizer))
        if log.is_settled:
            break
        loss = torch.stack([(weight - goal).square().sum() for weight, goal in zip(weights, goals, strict=True)]).sum()
        optimizer.zero_grad()
        (loss / scale).backward()
        optimizer.step()
    return log.found()


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("scale", [1e-3, 10.0])
def test_the_estimate_has_the_size_of_the_way_to_go(name, scale):
    pytest.importorskip(find_entry(name).package)
    found = estimate(name, scale)
    assert len({(one.rate, one.is_settled) for one in found}) == 1
    assert found[0].is_settled
    assert 0.08 * scale < found[0].d < 4 * scale
