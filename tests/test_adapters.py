import pytest
import torch
from torch import nn

from sdtune.adapters import Adapter, Wrapper, attach_adapters, detach_adapters, match_targets, merge_adapters
from sdtune.config.targets import TargetRule
from sdtune.errors import ConfigError
from sdtune.models.base import Target


class Doubled(Adapter):
    def forward(self, x):
        return 2 * self.base(x)

    def delta_weight(self):
        return self.base.weight.float()


class Model(nn.Module):
    """Two layers, replaced by path."""

    def __init__(self):
        super().__init__()
        self.unet = nn.ModuleDict({"a": nn.Linear(3, 2, bias=False), "b": nn.Linear(3, 2, bias=False)})

    def targets(self):
        for name, module in self.unet.items():
            yield Target(path=f"unet.{name}", module=module, part="unet", kind="attention", block="mid")

    def replace(self, path, module):
        self.set_submodule(path, module)


def match(*patterns):
    rules = [TargetRule(match=pattern) for pattern in patterns]
    return {target.path: rule and rule.match for target, rule in match_targets(Model().targets(), rules)}


def test_targets_stay_in_order_without_rules():
    assert match() == {"unet.a": None, "unet.b": None}


def test_the_last_rule_that_matches_counts():
    assert match("unet.*", "*.b") == {"unet.a": "unet.*", "unet.b": "*.b"}


def test_rules_that_match_nothing_are_told_together():
    with pytest.raises(ConfigError) as caught:
        match("unit.a", "unet.a", "zzz")
    assert [problem.message for problem in caught.value.problems] == [
        "the pattern 'unit.a' matches no layer",
        "the pattern 'zzz' matches no layer",
    ]
    assert "near names: unet.a" in caught.value.problems[0].hint


def test_detaching_undoes_attaching():
    model = Model()
    before = dict(model.unet.items())
    adapters = {target.path: Doubled(target.module) for target in model.targets()}
    attach_adapters(model, adapters)
    assert model.unet["a"] is adapters["unet.a"]
    detach_adapters(model, adapters)
    assert dict(model.unet.items()) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_puts_the_change_into_the_weights(dtype):
    model, x = Model().to(dtype), torch.randn(4, 3).to(dtype)
    adapters = {target.path: Doubled(target.module) for target in model.targets()}
    attach_adapters(model, adapters)
    expected = model.unet["a"](x)
    merge_adapters(model, adapters)
    assert type(model.unet["a"]) is nn.Linear
    assert torch.equal(model.unet["a"](x), expected)


def test_an_adapter_freezes_its_layer_and_shows_its_weight():
    layer = nn.Linear(3, 2)
    adapter = Doubled(layer)
    assert adapter.weight is layer.weight
    assert adapter.bias is layer.bias
    assert not any(parameter.requires_grad for parameter in adapter.parameters())


@pytest.mark.parametrize("module", [nn.LayerNorm(3), nn.Conv2d(4, 4, 3, groups=2)])
def test_other_layers_are_refused(module):
    with pytest.raises(TypeError, match="an adapter acts on"):
        Doubled(module)


def test_a_layer_has_one_adapter():
    with pytest.raises(ConfigError, match="two methods act on the same layers"):
        Doubled(Doubled(nn.Linear(3, 2)))


def test_a_wrapper_looks_like_what_it_wraps_and_freezes_nothing():
    layer = nn.Linear(3, 2)
    wrapper = Wrapper(Wrapper(layer))
    assert wrapper.weight is layer.weight
    assert wrapper.bias is layer.bias
    assert layer.weight.requires_grad
