"""Our changes against those of the package lycoris-lora 4.1.3, for the same factors."""

import importlib
import logging
import warnings

import pytest
import torch
from torch import nn

from sdtune_lycoris.algorithms import Settings
from sdtune_lycoris.layers import LycorisLayer

pytestmark = pytest.mark.slow

BASES = {
    "linear": (lambda: nn.Linear(24, 32), (2, 5, 24)),
    "conv 1x1": (lambda: nn.Conv2d(24, 32, 1), (2, 24, 3, 4)),
    "conv 3x3": (lambda: nn.Conv2d(24, 32, 3, padding=1), (2, 24, 5, 4)),
}
MODULES = {
    "locon": "locon.LoConModule",
    "loha": "loha.LohaModule",
    "lokr": "lokr.LokrModule",
    "ia3": "ia3.IA3Module",
    "full": "full.FullModule",
    "glora": "glora.GLoRAModule",
    "diag-oft": "diag_oft.DiagOFTModule",
    "boft": "boft.ButterflyOFTModule",
}
# Our options beside theirs.
NAMES = {
    "scalar": "use_scalar",
    "tucker": "use_tucker",
    "on_input": "train_on_input",
    "rank": "lora_dim",
}
OPTIONS = [
    {"algo": "locon"},
    {"algo": "locon", "scalar": True, "rs_lora": True},
    {"algo": "locon", "tucker": True},
    {"algo": "locon", "weight_decompose": True},
    {"algo": "loha"},
    {"algo": "loha", "scalar": True, "rs_lora": True},
    {"algo": "loha", "tucker": True},
    {"algo": "loha", "weight_decompose": True},
    {"algo": "lokr", "rank": 2},
    {"algo": "lokr", "rank": 2, "factor": 2},
    {"algo": "lokr", "rank": 8},
    {"algo": "lokr", "rank": 2, "scalar": True, "rs_lora": True},
    {"algo": "lokr", "full_matrix": True},
    {"algo": "lokr", "rank": 1, "decompose_both": True},
    {"algo": "lokr", "rank": 2, "tucker": True},
    {"algo": "lokr", "rank": 2, "weight_decompose": True},
    {"algo": "ia3"},
    {"algo": "ia3", "on_input": True},
    {"algo": "full", "has_bias": True},
    {"algo": "glora"},
    {"algo": "glora", "scalar": True, "rs_lora": True},
    {"algo": "diag-oft"},
    {"algo": "diag-oft", "constraint": 0.01},
    {"algo": "diag-oft", "rescaled": True},
    {"algo": "boft"},
    {"algo": "boft", "constraint": 0.01},
    {"algo": "boft", "rescaled": True},
]
CASES = [
    (base, {"rank": 4, "alpha": 2.0, **options})
    for options in OPTIONS
    for base in BASES
    if (options["algo"] != "glora" or base == "linear") and (not options.get("tucker") or base == "conv 3x3")
]


@pytest.fixture(scope="session")
def oracle():
    """Give the package's modules by the name of an algorithm."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {}
        for algo, name in MODULES.items():
            module, _, cls = name.rpartition(".")
            found[algo] = getattr(importlib.import_module(f"lycoris.modules.{module}"), cls)
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    return found


def theirs(oracle, base, options):
    """Make the package's module for the same layer and options."""
    options = {name: value for name, value in options.items() if name not in {"algo", "has_bias"}}
    given = {NAMES.get(name, name): value for name, value in options.items()}
    return oracle("test", base, wd_on_out=False, **given).eval()


@torch.no_grad()
def copy(layer, module):
    """Copy our factors, and tell that all of theirs are set."""
    own = dict(module.named_parameters())
    for name, factor in layer.factors.items():
        key = {"diff": "weight", "diff_b": "bias"}.get(name, name)
        key = key if key in own else f"{key}.weight"
        own.pop(key).copy_(factor)
    return [name for name in own if not name.startswith("org_module")]


def pair(oracle, base, options):
    """Give our layer and the package's, with the same random factors."""
    torch.manual_seed(0)
    frozen = BASES[base][0]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = theirs(oracle[options["algo"]], frozen, options)
    layer = LycorisLayer(frozen, Settings(**options), torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in layer.factors.values():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    assert copy(layer, module) == []
    module.org_forward = frozen.forward
    return layer, module


@pytest.mark.parametrize(("base", "options"), CASES)
def test_the_answer_is_that_of_lycoris(oracle, base, options):
    layer, module = pair(oracle, base, options)
    x = torch.randn(BASES[base][1])
    torch.testing.assert_close(layer(x), module(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [options for base, options in CASES if base == "linear"])
def test_delta_weight_is_what_lycoris_answers_to_unit_vectors(oracle, options):
    layer, module = pair(oracle, "linear", options)
    x = torch.eye(24)
    change = module(x) - module(torch.zeros(24)) - layer.base(x) + layer.base(torch.zeros(24))
    torch.testing.assert_close(layer.delta_weight(), change.t(), rtol=1e-4, atol=1e-4)
