"""Which layers are trained, by which algorithm, and under which name of a learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from sdtune.api import ConfigError, ParamGroup, Problems, match_targets
from sdtune_lycoris.algorithms import Settings
from sdtune_lycoris.algorithms.base import is_spatial
from sdtune_lycoris.algorithms.splitting import least_butterfly, split_butterfly
from sdtune_lycoris.config import USES
from sdtune_lycoris.presets import in_preset

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sdtune.api import Part, Target
    from sdtune_lycoris.config import LycorisOptions, LycorisRule, TrainedParts

# A text encoder overfits sooner than a UNet.
TEXT_ENCODER_LR_SCALE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A learning rate and the group it is shown as.

    Attributes:
        group: Name of the group of parameters.
        part: The part.
        lr: Learning rate; None: `train.lr`.
        lr_scale: Factor on it.
        stop: When learning stops; None: at the end.
    """

    group: str
    part: Part
    lr: float | str | None
    lr_scale: float = 1.0
    stop: float | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """What is made of one layer."""

    target: Target
    settings: Settings
    rate: Rate


def trained_parts(options: TrainedParts) -> tuple[Part, ...]:
    """List the parts that are trained."""
    chosen: dict[Part, bool] = {"unet": options.trains_unet, "text_encoder": options.trains_text_encoder}
    return tuple(part for part, is_trained in chosen.items() if is_trained)


def part_rate(options: TrainedParts, part: Part) -> Rate:
    """Give the learning rate of a part."""
    if part != "text_encoder":
        return Rate(group=part, part=part, lr=options.unet_lr)
    scale = TEXT_ENCODER_LR_SCALE if options.text_encoder_lr is None else 1.0
    return Rate(group=part, part=part, lr=options.text_encoder_lr, lr_scale=scale, stop=options.text_encoder_stop)


def make_groups(layers: Iterable[tuple[str, Mapping[str, nn.Parameter], Rate]]) -> list[ParamGroup]:
    """Gather the parameters of layers (path, factors, rate) that share a rate."""
    gathered: dict[Rate, list[dict[str, nn.Parameter]]] = {}
    for path, factors, rate in layers:
        gathered.setdefault(rate, []).append({f"{path}.{name}": factor for name, factor in factors.items()})
    return [
        ParamGroup(
            name=rate.group,
            part=rate.part,
            params={name: parameter for named in members for name, parameter in named.items()},
            lr=rate.lr,
            lr_scale=rate.lr_scale,
            modules=len(members),
            stop=rate.stop,
        )
        for rate, members in gathered.items()
    ]


def plan_layers(options: LycorisOptions, targets: Iterable[Target]) -> list[LayerPlan]:
    """Decide which targets are trained, in their order.

    Raises:
        ConfigError: A rule names nothing or changes nothing, a layer does not suit its algorithm, or none is left.
    """
    matched = match_targets(targets, options.targets)
    problems = Problems(ConfigError)
    _check_rules(options, matched, problems)
    plans = [_plan(options, target, rule) for target, rule in matched if _is_trained(options, target, rule)]
    plans = [plan for plan in plans if plan.rate.lr != 0]
    _check_spatial(options, plans, problems)
    _check_butterflies(plans, problems)
    problems.raise_if_any()
    if not plans:
        raise ConfigError(
            f"no layer is left to train with preset {options.preset} and algo {options.algo}",
            hint="look at lycoris.preset, lycoris.targets and the learning rates",
        )
    return plans


def _is_trained(options: LycorisOptions, target: Target, rule: LycorisRule | None) -> bool:
    wanted = in_preset(options.preset, target)
    algo = options.algo
    if rule is not None:
        if rule.exclude:
            return False
        wanted = wanted or rule.algo is not None or rule.rank is not None
        algo = rule.algo or algo
    return wanted and (algo != "glora" or isinstance(target.module, nn.Linear))


def _plan(options: LycorisOptions, target: Target, rule: LycorisRule | None) -> LayerPlan:
    rate = part_rate(options, target.part)
    if rule is not None and rule.lr is not None:
        rate = Rate(group=f"{target.part} {rule.match}", part=target.part, lr=rule.lr, stop=rate.stop)
    return LayerPlan(target=target, settings=_settings(options, target.module, rule), rate=rate)


def _settings(options: LycorisOptions, module: nn.Module, rule: LycorisRule | None) -> Settings:
    assert isinstance(module, nn.Linear | nn.Conv2d)
    algo = options.algo if rule is None else rule.algo or options.algo
    used, spatial = USES[algo], is_spatial(module.weight.shape)
    rank, alpha = _rank_and_alpha(options, rule, spatial=spatial)
    return Settings(
        algo=algo,
        rank=rank,
        alpha=alpha,
        rs_lora=options.rs_lora and "rs_lora" in used,
        tucker=options.tucker and "tucker" in used and spatial,
        scalar=options.scalar and "scalar" in used,
        weight_decompose=options.weight_decompose and "weight_decompose" in used,
        factor=options.factor if rule is None else rule.factor or options.factor,
        full_matrix=options.full_matrix,
        decompose_both=options.decompose_both,
        on_input=options.on_input,
        constraint=options.constraint,
        rescaled=options.rescaled and "rescaled" in used,
        has_bias=options.bias and "bias" in used and module.bias is not None,
    )


def _rank_and_alpha(options: LycorisOptions, rule: LycorisRule | None, *, spatial: bool) -> tuple[int, float]:
    rank, alpha = options.rank, options.alpha
    if spatial and options.conv_rank is not None:
        rank, alpha = options.conv_rank, options.conv_alpha
    scale = 1.0 if alpha is None else alpha / rank
    if rule is not None:
        rank = rule.rank or rank
        scale = rule.alpha / rank if rule.alpha is not None else scale
    return rank, scale * rank


def _check_rules(
    options: LycorisOptions, matched: Sequence[tuple[Target, LycorisRule | None]], problems: Problems
) -> None:
    for rule in options.targets:
        own = [target for target, last in matched if last is rule]
        if not own:
            problems.add(
                f"lycoris.targets: a later rule matches every layer of {rule.match!r}", hint="put it after that"
            )
        elif not rule.exclude and not any(_is_trained(options, target, rule) for target in own):
            hint = "give the rule an algo or a rank; glora trains linear layers only"
            problems.add(f"lycoris.targets: {rule.match!r} matches only layers that are not trained", hint=hint)


def _check_spatial(options: LycorisOptions, plans: Sequence[LayerPlan], problems: Problems) -> None:
    spatial = any(is_spatial(_shape(plan)) for plan in plans)
    for name, is_set in (("conv_rank", options.conv_rank is not None), ("tucker", options.tucker)):
        if plans and is_set and not spatial:
            hint = "choose the preset full, unet-only or convblock-only"
            problems.add(f"lycoris.{name} has no effect: no 3x3 convolution is trained", hint=hint)


def _check_butterflies(plans: Sequence[LayerPlan], problems: Problems) -> None:
    """Tell which rank all layers could be split with."""
    wanted = [plan for plan in plans if plan.settings.algo == "boft"]
    if all(split_butterfly(_shape(plan)[0], plan.settings.rank) for plan in wanted):
        return
    least = [least_butterfly(_shape(plan)[0]) for plan in wanted]
    found = max(size for size in least if size is not None)
    problems.add("lycoris.rank is too small for boft: layers cannot be split", hint=f"the smallest is {found}")


def _shape(plan: LayerPlan) -> Sequence[int]:
    module = plan.target.module
    assert isinstance(module, nn.Linear | nn.Conv2d)
    return module.weight.shape
