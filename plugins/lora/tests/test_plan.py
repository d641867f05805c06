from collections import Counter

import pytest
from torch import nn

from sdtune.api import ConfigError
from sdtune_lora.config import LoraOptions
from sdtune_lora.plan import plan_layers


def plan(model, **options):
    options = LoraOptions(**options)
    return plan_layers(options, model.targets(("unet", "text_encoder")))


def by_suffix(plans, suffix):
    found = [plan for plan in plans if plan.target.path.endswith(suffix)]
    assert found
    return found


def test_trains_the_layers_that_sd_scripts_trains(model):
    assert Counter(plan.target.part for plan in plan(model)) == {"unet": 192, "text_encoder": 72}


def test_conv_rank_adds_resnets_and_samplers(model):
    plans = plan(model, conv_rank=4)
    assert Counter(plan.target.part for plan in plans) == {"unet": 278, "text_encoder": 72}


def test_only_3x3_convolutions_have_the_conv_rank(model):
    plans = plan(model, rank=16, conv_rank=4, conv_alpha=1.0)
    spatial = [p for p in plans if isinstance(p.target.module, nn.Conv2d) and p.target.module.kernel_size == (3, 3)]
    assert {(p.rank, p.alpha) for p in spatial} == {(4, 1.0)}
    assert len(spatial) == 50
    assert {(p.rank, p.alpha) for p in plans if p not in spatial} == {(16, 16.0)}
    assert by_suffix(plans, "time_emb_proj")[0].rank == by_suffix(plans, "conv_shortcut")[0].rank == 16


def test_the_text_encoder_learns_at_half_the_rate(model):
    assert {(p.group, p.lr, p.lr_scale) for p in plan(model)} == {("unet", None, 1.0), ("text_encoder", None, 0.5)}


def test_own_rates_are_taken_as_they_are(model):
    plans = plan(model, unet_lr=1e-3, text_encoder_lr=1e-5)
    assert {(p.group, p.lr, p.lr_scale) for p in plans} == {("unet", 1e-3, 1.0), ("text_encoder", 1e-5, 1.0)}


def test_the_last_matching_rule_counts(model):
    rules = [{"match": "unet.*", "exclude": True}, {"match": "*.attn2.*", "rank": 4, "alpha": 2.0, "lr": 1e-5}]
    plans = plan(model, targets=rules, text_encoder=False)
    unet = [p for p in plans if p.target.part == "unet"]
    assert {(p.rank, p.alpha, p.group, p.lr, p.lr_scale) for p in unet} == {(4, 2.0, "unet *.attn2.*", 1e-5, 1.0)}
    assert len(unet) == 64


def test_a_rule_with_a_rank_brings_layers_in(model):
    plans = plan(model, targets=[{"match": "re:downsamplers", "rank": 2}])
    assert len(by_suffix(plans, "downsamplers.0.conv")) == 3
    assert len(plans) == 192 + 72 + 3


def test_a_rule_without_alpha_keeps_the_scale(model):
    plans = plan(model, rank=8, alpha=2.0, targets=[{"match": "*.to_q", "rank": 4}])
    assert {(p.rank, p.alpha) for p in by_suffix(plans, "to_q")} == {(4, 1.0)}


def test_blocks_have_their_own_rank_and_rate(model):
    blocks = {"mid": {"lr": 0.5, "rank": 2}, "layer_0": {"lr": 0.1}, "up_3": {"lr": 0}}
    plans = plan(model, unet_lr=1e-3, blocks=blocks)
    found = {p.target.block: (p.group, p.lr, p.lr_scale, p.rank) for p in plans}
    assert found["mid"] == ("unet mid", 1e-3, 0.5, 2)
    assert found["layer_0"] == ("text_encoder layer_0", None, 0.05, 16)
    assert found["down_0"] == ("unet", 1e-3, 1.0, 16)
    assert "up_3" not in found


def test_a_block_has_its_own_conv_rank(model):
    plans = plan(model, conv_rank=8, conv_alpha=4.0, blocks={"down_0": {"conv_rank": 2}})
    found = {(p.rank, p.alpha) for p in plans if p.target.path.startswith("unet.down_blocks.0.resnets.0.conv1")}
    assert found == {(2, 1.0)}


def test_an_unknown_block_is_told_with_those_there_are(model):
    with pytest.raises(ConfigError, match=r"no trained part has a block 'down_9'; blocks: down_0, down_1, .*layer_11"):
        plan(model, blocks={"down_9": {}})


def test_a_rule_that_matches_nothing_is_told_with_near_names(model):
    with pytest.raises(ConfigError, match=r"matches no layer; near names: .*mid_block.attentions.0.proj_in"):
        plan(model, targets=[{"match": "unet.mid_block.attention.0.proj_in"}])


def test_a_rule_that_has_no_effect_is_told(model):
    with pytest.raises(ConfigError, match="only layers that are not trained; give the rule a rank"):
        plan(model, targets=[{"match": "*.conv1", "lr": 1e-4}])


def test_a_rule_overruled_everywhere_is_told(model):
    with pytest.raises(ConfigError, match="a later rule matches every layer"):
        plan(model, targets=[{"match": "*.to_q", "rank": 4}, {"match": "*", "rank": 2}])


def test_all_problems_are_told_at_once(model):
    with pytest.raises(ConfigError) as caught:
        plan(model, targets=[{"match": "nothing"}, {"match": "nil"}], blocks={"down_9": {}})
    assert len(caught.value.problems) == 3


def test_nothing_left_is_told(model):
    with pytest.raises(ConfigError, match="no layer is left"):
        plan(model, targets=[{"match": "*", "exclude": True}])


def test_planning_twice_gives_the_same(model):
    plan(model, conv_rank=4)
    assert len(plan(model)) == 192 + 72
