"""Which layers are trained, how, and under which name of a learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from sdtune.api import ConfigError, Problems, match_targets

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sdtune.api import Target
    from sdtune_lora.config import LoraOptions, LoraRule

# A text encoder overfits sooner than a UNet.
TEXT_ENCODER_LR_SCALE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """What is made of one layer.

    Attributes:
        target: The layer.
        rank: Rank.
        alpha: Alpha.
        group: Name of the group of parameters.
        lr: Learning rate, also as `rate:step` pairs; None: `train.lr`.
        lr_scale: Factor on it.
    """

    target: Target
    rank: int
    alpha: float
    group: str
    lr: float | str | None
    lr_scale: float


def plan_layers(options: LoraOptions, targets: Iterable[Target]) -> list[LayerPlan]:
    """Decide which targets are trained, in their order.

    Raises:
        ConfigError: A rule or a block names nothing, changes nothing, or no layer is left.
    """
    targets = list(targets)
    problems = Problems(ConfigError)
    _check_blocks(options, targets, problems)
    with problems.collect():
        matched = match_targets(targets, options.targets)
        _check_rules(options, matched, problems)
    problems.raise_if_any()
    plans = [_plan(options, target, rule) for target, rule in matched if _is_trained(options, target, rule)]
    plans = [plan for plan in plans if plan.lr != 0 and plan.lr_scale != 0]
    if not plans:
        raise ConfigError("no layer is left to train", hint="look at lora.targets, lora.blocks and the learning rates")
    return plans


def _check_blocks(options: LoraOptions, targets: list[Target], problems: Problems) -> None:
    known = dict.fromkeys(target.block for target in targets)
    for name in options.blocks.keys() - known.keys():
        problems.add(f"lora.blocks: no trained part has a block {name!r}", hint=f"blocks: {', '.join(known)}")


def _check_rules(options: LoraOptions, matched: list[tuple[Target, LoraRule | None]], problems: Problems) -> None:
    for rule in options.targets:
        trained = any(_is_trained(options, target, rule) for target, last in matched if last is rule)
        overruled = not any(last is rule for _, last in matched)
        if overruled:
            problems.add(f"lora.targets: a later rule matches every layer of {rule.match!r}", hint="put it after that")
        elif not rule.exclude and not trained:
            problems.add(
                f"lora.targets: {rule.match!r} matches only layers that are not trained",
                hint="give the rule a rank, or set lora.conv_rank",
            )


def _is_trained(options: LoraOptions, target: Target, rule: LoraRule | None) -> bool:
    default = options.conv_rank is not None or target.kind in {"attention", "text"}
    if rule is None:
        return default
    return not rule.exclude and (default or rule.rank is not None)


def _plan(options: LoraOptions, target: Target, rule: LoraRule | None) -> LayerPlan:
    rank, scale = _rank_and_scale(options, target)
    group, lr, lr_scale = _learning_rate(options, target)
    if rule is not None:
        rank = rule.rank or rank
        scale = rule.alpha / rank if rule.alpha is not None else scale
        if rule.lr is not None:
            group, lr, lr_scale = f"{target.part} {rule.match}", rule.lr, 1.0
    return LayerPlan(target=target, rank=rank, alpha=scale * rank, group=group, lr=lr, lr_scale=lr_scale)


def _rank_and_scale(options: LoraOptions, target: Target) -> tuple[int, float]:
    """Give rank and alpha / rank of a layer, before rules."""
    block = options.blocks.get(target.block)
    rank, alpha, own = options.rank, options.alpha, block and block.rank
    if options.conv_rank is not None and _is_spatial(target.module):
        rank, alpha, own = options.conv_rank, options.conv_alpha, block and block.conv_rank
    return own or rank, 1.0 if alpha is None else alpha / rank


def _learning_rate(options: LoraOptions, target: Target) -> tuple[str, float | str | None, float]:
    """Give group, learning rate and factor of a layer, before rules."""
    group, lr, factor = target.part, options.unet_lr, 1.0
    if target.part == "text_encoder":
        lr = options.text_encoder_lr
        factor = TEXT_ENCODER_LR_SCALE if lr is None else 1.0
    block = options.blocks.get(target.block)
    if block is None or block.lr == 1:
        return group, lr, factor
    return f"{group} {target.block}", lr, factor * block.lr


def _is_spatial(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
