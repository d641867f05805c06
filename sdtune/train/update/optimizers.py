"""Optimizers: found by name, their arguments checked against the class, built over groups of parameters."""

from __future__ import annotations

import difflib
import inspect
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from importlib import import_module
from io import StringIO
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch

from sdtune.config.optimizers import find_entry
from sdtune.errors import ConfigError, PlatformError, Problems
from sdtune.train.update.rates import group_rates
from sdtune.train.update.schedules import make_shape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch.optim import Optimizer

    from sdtune.config.optimizer import OptimizerOptions
    from sdtune.config.optimizers import ArgValue, OptimizerEntry
    from sdtune.config.train import TrainOptions
    from sdtune.train.method import ParamGroup

_FUSED_DEVICES = {"cpu", "cuda"}
_LOWEST_FACTOR = 0.1  # below it a rate was meant for an optimizer that does not find its own
_PRESET = {"params": "the method gives the parameters", "lr": "train.lr gives the learning rate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenOptimizer:
    """An optimizer's class with the arguments it will have.

    Attributes:
        entry: What is known about it.
        factory: The class.
        args: Arguments that are not the class's own defaults.
    """

    entry: OptimizerEntry
    factory: type[Optimizer]
    args: Mapping[str, Any]


class _Averaging(Protocol):
    """An optimizer that averages the weights: `train` gives the parameters the live weights, `eval` the average."""

    def train(self) -> None: ...

    def eval(self) -> None: ...


def choose_optimizer(options: OptimizerOptions) -> ChosenOptimizer:
    """Import the optimizer's class and check the arguments against its signature.

    Raises:
        PlatformError: Its package is not installed.
        ConfigError: The module has no such class, or the class does not take an argument or its type.
    """
    entry = find_entry(options.name)
    factory = _import(entry)
    if options.name == entry.target:  # not of the table
        entry = replace(entry, averages={"train", "eval"} <= set(dir(factory)))
    parameters = inspect.signature(factory).parameters
    problems = Problems(ConfigError)
    for name, common in options.common.items():
        _check_argument(f"train.optimizer.{name}", name, common, entry, parameters, problems)
        if name in options.args:
            problems.add(f"train.optimizer.args.{name} is train.optimizer.{name}", hint="give one of them")
    for name, value in options.args.items():
        _check_argument(f"train.optimizer.args.{name}", name, value, entry, parameters, problems)
    problems.raise_if_any()
    return ChosenOptimizer(entry=entry, factory=factory, args={**entry.args, **options.common, **options.args})


def _import(entry: OptimizerEntry) -> type[Optimizer]:
    module, _, name = entry.target.partition(":")
    try:
        found = vars(import_module(module)).get(name)
    except ImportError as error:
        raise PlatformError(
            f"train.optimizer.name: {entry.name} needs the package {entry.package}", hint=entry.install
        ) from error
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise ConfigError(f"train.optimizer.name: {module} has no optimizer {name}", hint="give module:Class")
    return found


def _check_argument(
    where: str,
    name: str,
    value: ArgValue,
    entry: OptimizerEntry,
    parameters: Mapping[str, inspect.Parameter],
    problems: Problems,
) -> None:
    if name in _PRESET:
        problems.add(f"{where} cannot be given", hint=_PRESET[name])
    elif name not in parameters or parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
        own = [other for other in parameters if other not in {*_PRESET, "args", "kwargs"}]
        near = difflib.get_close_matches(name, own, n=3) or own
        problems.add(f"{where}: {entry.name} has no argument {name}", hint=f"it has {', '.join(near)}")
    elif wanted := _mismatch(value, parameters[name]):
        shown = list(value) if isinstance(value, tuple) else value
        problems.add(f"{where}: {shown!r} must be {wanted}, as {entry.name} has it")


def _mismatch(value: ArgValue, parameter: inspect.Parameter) -> str:
    """Say what an argument must be, judged by its default value; empty when it fits or nothing is known."""
    default = parameter.default
    if value is None or default is None or default is inspect.Parameter.empty:
        return ""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, str):
        return "" if isinstance(value, str) else "text"
    if isinstance(default, tuple):
        fits = isinstance(value, tuple) and len(value) == len(default)
        return "" if fits else f"{len(default)} numbers, e.g. {list(default)}"
    if isinstance(default, int | float):
        is_whole = parameter.annotation in (int, "int")
        kinds = int if is_whole else int | float
        fits = isinstance(value, kinds) and not isinstance(value, bool)
        return "" if fits else "a whole number" if is_whole else "a number"
    return ""


def check_fit(chosen: ChosenOptimizer, groups: Sequence[ParamGroup], train: TrainOptions, steps: int) -> None:
    """Refuse rates, schedules and averages that do not go together with the optimizer or the length of the run.

    Raises:
        ConfigError: One line for each of them.
    """
    entry, problems = chosen.entry, Problems(ConfigError)
    with problems.collect():
        make_shape(train.schedule, steps)
    if entry.rate != "given":
        _check_factors(entry, groups, train, problems)
    is_constant = train.schedule.name in ("constant", "constant_with_warmup")
    if (entry.rate == "own" or entry.averages) and not is_constant:
        problems.add(
            f"train.schedule.name: {entry.name} needs no schedule, but it is {train.schedule.name}",
            hint="use train.schedule.name=constant",
        )
    if entry.rate == "own" and train.schedule.warmup:
        problems.add(f"train.schedule.warmup has no effect with {entry.name}", hint="see train.optimizer.args")
    if entry.averages and train.ema.decay is not None:
        problems.add(f"train.ema.decay: {entry.name} averages the weights already", hint="leave train.ema out")
    problems.raise_if_any()


def _check_factors(
    entry: OptimizerEntry, groups: Sequence[ParamGroup], train: TrainOptions, problems: Problems
) -> None:
    rates = {group.name: group_rates(group, train).highest for group in groups}
    low = {name: rate for name, rate in rates.items() if rate <= _LOWEST_FACTOR}
    remedy = 'train.lr=1, and train.rates=[{match: "*", lr: 1}] where parts have other rates'
    if low:
        name, rate = next(iter(low.items()))
        problems.add(f"{entry.name} finds the learning rate itself, but {name} has {rate:g}", hint=f"give {remedy}")
    elif len(set(rates.values())) > 1:
        shown = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
        problems.add(f"{entry.name} takes one learning rate for all, but there are {shown}", hint=f"give {remedy}")


def build_optimizer(groups: Sequence[ParamGroup], train: TrainOptions) -> Optimizer:
    """Build the optimizer over parameter groups; `set_rates` gives them their rates before each step.

    Raises:
        PlatformError: Its package is not installed.
        ConfigError: It does not take the arguments or these parameters.
    """
    chosen = choose_optimizer(train.optimizer)
    tables = [_table(group, "weight_decay" in inspect.signature(chosen.factory).parameters) for group in groups]
    highest = max(group_rates(group, train).highest for group in groups)
    devices = {parameter.device.type for group in groups for parameter in group.params.values()}
    fused = {"fused": True} if chosen.entry.is_fused and devices <= _FUSED_DEVICES else {}
    lr = None if chosen.entry.rate == "own" else highest
    try:
        with redirect_stdout(StringIO()):  # some tell on the screen which kind of weight decay they have
            optimizer = cast("Any", chosen.factory)(tables, **{"lr": lr, **fused, **chosen.args})
    except (ValueError, TypeError, AssertionError, RuntimeError) as error:
        raise ConfigError(f"train.optimizer: {chosen.entry.name} cannot be used: {error}") from error
    if chosen.entry.averages:
        cast("_Averaging", optimizer).train()
    return cast("Optimizer", optimizer)


def _table(group: ParamGroup, has_decay: bool) -> dict[str, Any]:
    decay = {"weight_decay": group.weight_decay} if has_decay and group.weight_decay is not None else {}
    return {"params": list(group.params.values()), "name": group.name, **decay}


@contextmanager
def averaged_weights(optimizer: Optimizer) -> Iterator[None]:
    """Give the model the optimizer's own average for as long as the context lasts.

    Afterwards the parameters are as before to the last bit: going back by `train()` alone would round them.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    live = [parameter.detach().clone() for parameter in parameters]
    averaging = cast("_Averaging", optimizer)
    averaging.eval()
    try:
        yield
    finally:
        averaging.train()
        with torch.no_grad():
            for parameter, value in zip(parameters, live, strict=True):
                parameter.copy_(value)
