import pytest
from torch import nn

import sdtune_hypernetwork
from sdtune.testing import FAMILIES, method_checks
from sdtune.testing.webui import load_like_webui


def hook(model, path):
    """Change the contexts of keys and values by hooks: c + N(c), with N linear, relu, linear as the file says."""
    content = load_like_webui(path)
    assert (content["layer_structure"], content["activation_func"]) == ([1, 2, 1], "relu")
    networks = {width: [_network(state) for state in content[width]] for width in content if isinstance(width, int)}
    for target in model.targets(("unet",)):
        side = ("to_k", "to_v").index(target.path[-4:]) if target.path.endswith((".to_k", ".to_v")) else None
        if side is not None:
            network = networks[target.module.in_features][side]
            target.module.register_forward_pre_hook(lambda _, args, network=network: (args[0] + network(args[0]),))


def _network(state):
    network = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    for index in (0, 2):
        network[index].weight = nn.Parameter(state[f"linear.{index}.weight"])
        network[index].bias = nn.Parameter(state[f"linear.{index}.bias"])
    return network


@pytest.mark.slow
@method_checks(
    [sdtune_hypernetwork],
    "hypernetwork",
    families=FAMILIES,
    options=["hypernetwork.activation=relu"],
    is_identity_at_start=False,
    reload=hook,
)
def test_hypernetwork_is_a_good_method(check, tmp_path):
    check(tmp_path)
