from pathlib import Path

import pytest
import torch

from sdtune.export.certificate import certify
from sdtune.export.probe import Probe
from sdtune.formats.consumers.applying import view_of
from sdtune.formats.consumers.reading import File
from sdtune.formats.consumers.table import CONSUMERS
from sdtune.testing.models import open_tiny
from sdtune.testing.tiny import SHALLOW, tiny_model

PROBE = Probe(captions=("a photo of zwx", "a red circle"))


@pytest.fixture(scope="session")
def open_base(tmp_path_factory):
    """Open the tiny model of a family, once; tests leave it as it was."""
    folder, opened = tmp_path_factory.mktemp("models"), {}

    def open_base(family):
        if family not in opened:
            path = tiny_model(folder / family / "tiny.safetensors", family, depths=SHALLOW.get(family))
            opened[family] = open_tiny(path, family)
        return opened[family]

    return open_base


@pytest.fixture
def file():
    """Make a file of tensors, without the disk."""
    return lambda tensors, kind="lora": File(path=Path("zwx.safetensors"), kind=kind, tensors=dict(tensors))


@pytest.fixture
def read(file):
    """Read tensors as a program does."""

    def read(consumer, tensors, base, kind="lora"):
        return CONSUMERS[consumer](file(tensors, kind), view_of(base), base)

    return read


@pytest.fixture
def certificate(file):
    """Certify tensors, against what they were meant for."""

    def certificate(tensors, base, *chosen, kind="lora", asked=()):
        return certify([file(tensors, kind)], base, PROBE, trained=None, chosen=chosen, asked=asked)

    return certificate


@pytest.fixture
def adapter():
    """Make a good LoRA for a family's attention and text encoders, as sdtune names it."""

    def adapter(base, rank=2, alpha=1.0):
        generator, tensors = torch.Generator().manual_seed(0), {}
        for target in base.targets(("unet", "text_encoder")):
            shape = target.module.weight.shape
            if target.kind in {"attention", "text"}:
                key = base.webui_key(target.path)
                tensors[f"{key}.lora_down.weight"] = torch.randn(rank, *shape[1:], generator=generator) * 0.1
                up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=generator)
                tensors[f"{key}.lora_up.weight"] = up * 0.1
                tensors[f"{key}.alpha"] = torch.tensor(alpha)
        return tensors

    return adapter
