"""A small run to break: a tiny model, four pictures, and the options that train on them."""

import json

import pytest

from sdtune.testing.images import write_images
from sdtune.testing.tiny import tiny_sd1


@pytest.fixture(scope="session")
def fault_model(tmp_path_factory):
    return tiny_sd1(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def fault_images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "images"
    write_images(folder, 4)
    return folder


@pytest.fixture
def small_run(fault_model, fault_images):
    """Give options of a run of six steps, the later ones winning."""

    def make(output, *more):
        return [
            "method=lora",
            f"model.path={fault_model}",
            f"data.path={fault_images}",
            "data.resolution=64",
            "data.cache.latents=ram",
            f"output.dir={output}",
            "output.name=thing",
            "train.steps=6",
            "train.lr=1e-3",
            "lora.rank=2",
            "lora.text_encoder=false",
            "log.tensorboard=false",
            "save.dtype=fp32",
            *more,
        ]

    return make


@pytest.fixture
def logged():
    """Read one column of a run's metrics."""

    def read(output, name):
        return [json.loads(line)[name] for line in (output / "metrics.jsonl").read_text().splitlines()]

    return read
