from collections import Counter

import pytest
from torch import nn

from sdtune.api import ConfigError
from sdtune_lycoris.config import LycorisOptions
from sdtune_lycoris.plan import plan_layers, trained_parts
from sdtune_lycoris.presets import unet_norms


def plan(model, **options):
    options = LycorisOptions(**options)
    return plan_layers(options, model.targets(trained_parts(options)))


def counts(plans):
    return Counter(plan.target.part for plan in plans)


@pytest.mark.parametrize(
    ("preset", "unet", "text"),
    [
        ("full", 278, 72),
        ("full-lin", 182, 72),
        ("attn-mlp", 192, 72),
        ("attn-only", 128, 48),
        ("unet-only", 278, 0),
        ("transformer-only", 192, 0),
        ("convblock-only", 86, 0),
    ],
)
def test_presets_choose_by_name(model, preset, unet, text):
    assert counts(plan(model, preset=preset)) == Counter({"unet": unet, "text_encoder": text})


def test_glora_trains_linear_layers_alone(model):
    plans = plan(model, algo="glora")
    assert len(plans) == 182 + 72
    assert all(isinstance(plan.target.module, nn.Linear) for plan in plans)


def test_rules_give_layers_their_own_algorithm(model):
    rules = [
        {"match": "*.to_q", "algo": "lokr", "factor": 2, "lr": 1e-5},
        {"match": "*.ff.*", "exclude": True},
        {"match": "*.conv1", "rank": 2},
    ]
    plans = plan(model, algo="loha", alpha=8.0, preset="transformer-only", factor=4, targets=rules)
    found = {plan.target.path.rpartition(".")[2]: (plan.settings, plan.rate) for plan in plans}
    settings, rate = found["to_q"]
    assert (settings.algo, settings.factor, rate.lr, rate.group) == ("lokr", 2, 1e-5, "unet *.to_q")
    assert (found["to_k"][0].algo, found["to_k"][1].group) == ("loha", "unet")
    assert (found["conv1"][0].rank, found["conv1"][0].alpha) == (2, 1.0)
    assert len(plans) == 192 - 32 + 22


def test_only_3x3_convolutions_have_the_conv_rank_and_a_tucker_core(model):
    plans = plan(model, rank=8, conv_rank=2, conv_alpha=1.0, tucker=True)
    found = {(len(p.target.module.weight.shape) == 4 and p.target.module.kernel_size == (3, 3)): p for p in plans}
    assert (found[True].settings.rank, found[True].settings.alpha, found[True].settings.tucker) == (2, 1.0, True)
    assert (found[False].settings.rank, found[False].settings.alpha, found[False].settings.tucker) == (8, 8.0, False)


def test_the_text_encoder_learns_at_half_the_rate(model):
    assert {(p.rate.group, p.rate.lr_scale) for p in plan(model)} == {("unet", 1.0), ("text_encoder", 0.5)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "attn-mlp", "conv_rank": 4}, "conv_rank has no effect: no 3x3 convolution is trained"),
        ({"preset": "attn-mlp", "tucker": True}, "tucker has no effect"),
        ({"algo": "glora", "targets": [{"match": "*.conv1", "rank": 2}]}, "glora trains linear layers only"),
        ({"targets": [{"match": "unet.nothing"}]}, "matches no layer"),
        ({"targets": [{"match": "*", "exclude": True}]}, "no layer is left"),
        ({"targets": [{"match": "*.to_q", "rank": 2}, {"match": "*", "rank": 4}]}, "a later rule matches every layer"),
        ({"algo": "boft", "rank": 1}, r"rank is too small for boft: .*the smallest is 2"),
    ],
)
def test_what_has_no_effect_is_told(model, options, message):
    with pytest.raises(ConfigError, match=message):
        plan(model, **options)


def test_norms_are_those_inside_blocks(model):
    norms = unet_norms(model.part("unet").named_modules())
    assert len(norms) == 16 * 4 + 22 * 2
    assert "unet.mid_block.attentions.0.transformer_blocks.0.norm3" in norms
    assert "unet.conv_norm_out" not in norms
