"""The short way through fake tensors, against torch's own."""

from contextlib import nullcontext

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode

from sdtune.train.needs.live import LiveBytes

SHAPES = {"block_out_channels": (32, 64), "norm_num_groups": 8, "cross_attention_dim": 16, "attention_head_dim": 4}
BLOCKS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


def counted(*, is_fake, dtype):
    unet = UNet2DConditionModel(sample_size=8, layers_per_block=1, **SHAPES, **BLOCKS)
    for parameter in unet.parameters():
        parameter.data = parameter.data.to(dtype)
    with FakeTensorMode(allow_non_fake_inputs=True) if is_fake else nullcontext() as fake:
        counter = LiveBytes(fake)
        for parameter in unet.parameters():
            counter.exclude(fake.from_tensor(parameter) if fake else parameter)
        with counter:
            answer = unet(torch.zeros(2, 4, 8, 8, dtype=dtype), 1, torch.zeros(2, 7, 16, dtype=dtype)).sample
            gradients = torch.autograd.grad(answer.float().square().sum(), list(unet.parameters()))
    return counter, [(grad.shape, grad.dtype, grad.device) for grad in gradients]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_without_values_count_as_those_with_them(dtype):
    (fake, fake_grads), (real, real_grads) = (counted(is_fake=kind, dtype=dtype) for kind in (True, False))
    assert fake_grads == real_grads
    assert fake.peak == real.peak
    assert fake.flops == real.flops


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x.t() @ x,
        lambda x: torch.addmm(x[0], x, x.t() @ x),
        lambda x: torch.nn.functional.layer_norm(x, (4,)),
        lambda x: torch.cat([x, x + 1.0], dim=1),
        lambda x: (x.to(torch.bfloat16) * x).sum(0),
        lambda x: x.new_zeros(2, 3, device="cpu"),
        lambda x: x.mul_(2).view(2, 6),
    ],
)
def test_shape_dtype_and_layout_are_torchs(compute):
    with FakeTensorMode() as fake, LiveBytes(fake):
        found = compute(torch.zeros(3, 4))
    real = compute(torch.zeros(3, 4))
    assert (found.shape, found.dtype, found.stride(), found.device) == (
        real.shape,
        real.dtype,
        real.stride(),
        real.device,
    )
