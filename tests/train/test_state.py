import pytest
import torch
from torch import nn

from sdtune.errors import ModelError
from sdtune.train.state import pack_optimizer, unpack_optimizer


def make(kind):
    generator = torch.Generator().manual_seed(0)
    names = {name: nn.Parameter(torch.randn(8, 600, generator=generator)) for name in ("unet.a/x", "unet.b")}
    groups = [{"params": [names["unet.b"]], "lr": 1e-2}, {"params": [names["unet.a/x"]], "lr": 1e-3}]
    return names, kind(groups)


def step(names, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in names.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def adamw8bit(groups):
    return pytest.importorskip("bitsandbytes").optim.AdamW8bit(groups)


@pytest.mark.parametrize(
    "kind",
    [lambda groups: torch.optim.AdamW(groups, fused=True), torch.optim.Adagrad, adamw8bit],
    ids=["fused_adamw", "adagrad", "adamw8bit"],
)
def test_an_optimizer_goes_on_from_its_packed_state_bit_for_bit(kind):
    names, optimizer = make(kind)
    step(names, optimizer, 1)
    tensors, values = pack_optimizer(optimizer, names)
    tensors = {label: tensor.clone() for label, tensor in tensors.items()}

    other_names, other = make(kind)
    for name, parameter in other_names.items():
        parameter.data.copy_(names[name].data)
    unpack_optimizer(other, other_names, tensors, values)
    step(names, optimizer, 2)
    step(other_names, other, 2)
    assert all(torch.equal(names[name], other_names[name]) for name in names)


def test_state_of_other_parameters_is_refused():
    names, optimizer = make(torch.optim.AdamW)
    with pytest.raises(ModelError, match="unknown parameters, first stranger"):
        unpack_optimizer(optimizer, names, {"stranger/exp_avg": torch.zeros(1)}, {})
