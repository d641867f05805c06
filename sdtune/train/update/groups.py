"""Groups of parameters as the options want them: split by rule, and frozen where a rate is 0."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from sdtune.errors import ConfigError, Problems
from sdtune.train.update.rates import group_rates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdtune.config.optimizer import RateRule
    from sdtune.config.train import TrainOptions
    from sdtune.train.method import ParamGroup


def split_groups(groups: Sequence[ParamGroup], rules: Sequence[RateRule]) -> list[ParamGroup]:
    """Give the parameters that a rule matches a group of their own, `GROUP PATTERN`, at the rule's rate.

    A group that one rule matches as a whole keeps its name.

    Raises:
        ConfigError: A rule matches no parameter, or a later rule overrules it everywhere.
    """
    names = [name for group in groups for name in group.params]
    rule_of = {name: _last_match(name, rules) for name in names}
    used = {id(rule) for rule in rule_of.values()}
    problems = Problems(ConfigError)
    for number, rule in enumerate(rules):
        if id(rule) not in used:
            is_known = any(map(rule.matches, names))
            text = "matches only what later rules match" if is_known else "matches no trained parameter"
            hint = "put it after them" if is_known else f"their names are like {names[0]}"
            problems.add(f"train.rates.{number}: {rule.match!r} {text}", hint=hint)
    problems.raise_if_any()
    return list(chain.from_iterable(_split(group, rule_of) for group in groups))


def _last_match(name: str, rules: Sequence[RateRule]) -> RateRule | None:
    return next((rule for rule in reversed(rules) if rule.matches(name)), None)


def _split(group: ParamGroup, rule_of: dict[str, RateRule | None]) -> list[ParamGroup]:
    parts: dict[int, tuple[RateRule | None, list[str]]] = {}
    for name in group.params:
        rule = rule_of[name]
        parts.setdefault(id(rule), (rule, []))[1].append(name)
    if len(parts) == 1:  # one rate for all of it, so it keeps its name
        return [_with_rate(group, rule) for rule, _ in parts.values()]
    return [_part(group, rule, names) for rule, names in parts.values()]


def _part(group: ParamGroup, rule: RateRule | None, names: Sequence[str]) -> ParamGroup:
    return replace(
        _with_rate(group, rule),
        name=group.name if rule is None else f"{group.name} {rule.match}",
        params={name: group.params[name] for name in names},
        modules=len({name.rpartition(".")[0] for name in names}),
    )


def _with_rate(group: ParamGroup, rule: RateRule | None) -> ParamGroup:
    if rule is None:
        return group
    if rule.lr is not None:
        return replace(group, lr=rule.lr, lr_scale=1.0)
    return replace(group, lr_scale=group.lr_scale * (rule.scale or 0.0))


def freeze_groups(groups: Sequence[ParamGroup], train: TrainOptions) -> tuple[list[ParamGroup], list[str]]:
    """Take groups with a learning rate of 0 out of training, their parameters without gradients.

    Returns:
        The groups that learn, and a note for each that does not.

    Raises:
        ConfigError: None learns.
    """
    learning = [group for group in groups if group_rates(group, train).highest > 0]
    if not learning:
        raise ConfigError("every learning rate is 0", hint="look at train.lr, train.rates and the method's own rates")
    parts = {group.part for group in learning}
    notes = []
    for group in groups:
        if group not in learning:
            for parameter in group.params.values():
                parameter.requires_grad_(False)
            whole = "" if group.part in parts else f"; nothing of the {group.part.replace('_', ' ')} is trained"
            notes.append(f"{group.name} is frozen, its learning rate is 0{whole}")
    return learning, notes
