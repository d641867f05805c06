"""Groups split by rule and frozen by rate."""

import re

import pytest
import torch
from torch import nn

from sdtune.config.optimizer import RateRule
from sdtune.config.train import TrainOptions
from sdtune.errors import ConfigError
from sdtune.testing.models import open_tiny
from sdtune.train.method import ParamGroup
from sdtune.train.update.groups import freeze_groups, split_groups
from sdtune.train.update.rates import group_rates


def group(name, *paths, part="unet", **more):
    params = {path: nn.Parameter(torch.zeros(1)) for path in paths}
    return ParamGroup(name=name, part=part, params=params, **more)


def rules(*pairs):
    return [RateRule(match=match, **rate) for match, rate in pairs]


def rates(groups, train):
    return {name: group_rates(group, train).rates.values for group in groups for name in group.params}


GROUPS = (
    group("unet", "unet.down.0.up", "unet.down.1.up", "unet.mid.up", modules=3, stop=0.5),
    group("unet plus", "unet.down.0.down", "unet.mid.down", lr_scale=16.0),
    group("text_encoder", "text_encoder.a", "text_encoder_2.a", part="text_encoder", lr=1e-5, weight_decay=0.0),
)


def test_without_rules_groups_stay_as_they_are():
    assert split_groups(GROUPS, []) == list(GROUPS)


def test_a_rate_replaces_that_of_the_method_and_a_scale_multiplies_it():
    split = split_groups(GROUPS, rules(("unet.down.*", {"lr": 1e-3}), ("*.mid.*", {"scale": 0.5})))
    assert rates(split, TrainOptions(steps=1, lr=0.01)) == {
        "unet.down.0.up": (1e-3,),
        "unet.down.1.up": (1e-3,),
        "unet.mid.up": (0.005,),
        "unet.down.0.down": (1e-3,),
        "unet.mid.down": (0.08,),
        "text_encoder.a": (1e-5,),
        "text_encoder_2.a": (1e-5,),
    }


def test_a_group_that_one_rule_matches_keeps_its_name():
    assert [made.name for made in split_groups(GROUPS, rules(("*", {"lr": 1})))] == [made.name for made in GROUPS]


def test_the_last_rule_that_matches_counts():
    split = split_groups(GROUPS, rules(("*", {"lr": 1}), ("re:^text_encoder_2", {"lr": "1:5, 0.5"})))
    found = rates(split, TrainOptions(steps=1))
    assert (found["text_encoder.a"], found["text_encoder_2.a"]) == ((1.0,), (1.0, 0.5))


def test_a_part_of_a_group_keeps_what_is_not_its_rate():
    split = {
        made.name: made for made in split_groups(GROUPS, rules(("text_encoder_2.*", {"lr": 1}), ("*.0.up", {"lr": 2})))
    }
    assert list(split) == [
        "unet *.0.up", "unet", "unet plus", "text_encoder", "text_encoder text_encoder_2.*",
    ]  # fmt: skip
    assert (split["unet *.0.up"].stop, split["unet *.0.up"].modules, split["unet"].modules) == (0.5, 1, 2)
    assert split["text_encoder text_encoder_2.*"].weight_decay == 0.0


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("vae.*", {"lr": 1})], r"train.rates.0: 'vae.\*' matches no trained parameter; their names are like unet"),
        ([("unet.mid.up", {"lr": 1}), ("unet.*", {"lr": 2})], "train.rates.0: 'unet.mid.up' matches only what later"),
    ],
)
def test_a_rule_that_does_nothing_is_refused(pairs, message):
    with pytest.raises(ConfigError, match=message):
        split_groups(GROUPS, rules(*pairs))


@pytest.mark.parametrize("rate", [{}, {"lr": 1, "scale": 1}, {"lr": -1}, {"scale": -1}])
def test_a_rule_gives_either_a_rate_or_a_scale(rate):
    with pytest.raises(ValueError, match=r"either lr or scale|greater than|less than|rates from 0"):
        RateRule(match="*", **rate)


def test_a_rate_of_0_freezes():
    groups = [
        group("unet", "a"),
        group("unet b", "b", lr=0.0),
        group("text_encoder", "c", part="text_encoder", lr_scale=0),
    ]
    learning, notes = freeze_groups(groups, TrainOptions(steps=1))
    assert learning == groups[:1]
    assert notes == [
        "unet b is frozen, its learning rate is 0",
        "text_encoder is frozen, its learning rate is 0; nothing of the text encoder is trained",
    ]
    assert [next(iter(made.params.values())).requires_grad for made in groups] == [True, False, False]


def test_a_run_that_learns_nothing_is_refused():
    with pytest.raises(ConfigError, match="every learning rate is 0"):
        freeze_groups([group("unet", "a", lr=0)], TrainOptions(steps=1))


def kohya_block(key):
    """Which of kohya's block weights an SDXL layer has, by its name in files."""
    if match := re.match(r"lora_unet_(input|output|middle)_blocks?_(\d+)_", key):
        return match[1], int(match[2])
    return "rest", 0


def recipe(side, number):
    """The patterns that docs/optimizers.md gives for a block of kohya's scripts."""
    if side == "middle":
        return ["unet.mid_block.resnets.0.*", "unet.mid_block.attentions.*", "unet.mid_block.resnets.1.*"][
            number : number + 1
        ]
    name, level, place = ("down", *divmod(number - 1, 3)) if side == "input" else ("up", *divmod(number, 3))
    patterns = [rf"re:^unet\.{name}_blocks\.{level}\.(resnets|attentions)\.{place}\."]
    return [*patterns, f"unet.{name}_blocks.{level}.{name}samplers.*"] if place == 2 else patterns


@pytest.mark.slow
def test_block_weights_of_kohyas_scripts_are_rules_of_ours(tmp_path):
    model = open_tiny(tmp_path / "sdxl", "sdxl", parts=("unet",))
    keys = {target.path: model.webui_key(target.path) for target in model.targets(("unet",))}
    blocks = {kohya_block(key) for key in keys.values()} - {("rest", 0)}
    assert len(blocks) == 8 + 3 + 9
    for side, number in blocks:
        matched = {
            path for match in recipe(side, number) for path in keys if RateRule(match=match, lr=1).matches(f"{path}.x")
        }
        assert matched == {path for path, key in keys.items() if kohya_block(key) == (side, number)}
