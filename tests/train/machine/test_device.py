"""What is set in torch for a run."""

import pytest
import torch

from sdtune.config.train import TrainOptions
from sdtune.train.machine.device import set_up_torch


@pytest.fixture(autouse=True)
def _torch_as_before():
    threads, precision, tf32 = (
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
    )
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = tf32


@pytest.mark.parametrize(("tf32", "precision"), [(True, "high"), (False, "highest")])
def test_a_gpu_rounds_factors_where_it_may(tf32, precision):
    set_up_torch(TrainOptions(tf32=tf32), torch.device("cuda"))
    assert torch.get_float32_matmul_precision() == precision
    assert torch.backends.cudnn.allow_tf32 == tf32


def test_a_cpu_computes_in_full():
    set_up_torch(TrainOptions(), torch.device("cpu"))
    assert torch.get_float32_matmul_precision() == "highest"


def test_threads_are_those_asked_for():
    set_up_torch(TrainOptions(threads=1), torch.device("cpu"))
    assert torch.get_num_threads() == 1
