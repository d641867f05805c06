"""Models at full width whose weights are holes in a file: true names, shapes and sizes, and no room on the disk."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch

from sdtune.config.model import ModelOptions
from sdtune.errors import ModelError
from sdtune.models.architecture import SD2
from sdtune.models.open import open_model
from sdtune.models.prediction import TELLING_BIAS
from sdtune.models.storage import open_storage
from sdtune.testing.full import full_checkpoint, full_folder, full_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts bytes and pages"),
]
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "loading.py"
LAYERS = {
    "sd1": {"unet": 192, "text_encoder": 72},
    "sd2": {"unet": 192, "text_encoder": 138},
    "sdxl": {"unet": 722, "text_encoder": 72, "text_encoder_2": 192},
}
WITH_CONVOLUTIONS = {"sd1": 278, "sd2": 278, "sdxl": 788}
TENSORS = {
    "sd1": {"unet": 686, "vae": 248, "text_encoder": 196},
    "sd2": {"unet": 686, "vae": 248, "text_encoder": 372},
    "sdxl": {"unet": 1680, "vae": 248, "text_encoder": 196, "text_encoder_2": 517},
}
PARAMETERS = {"sd1": 1_066_235_307, "sd2": 1_289_952_427, "sdxl": 3_468_837_867}
BOUND = 1.2
BUFFER_BYTES = 1 << 16
DISK_BYTES = 32 << 20


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("full")
    return {
        family: full_model(root / family / "m.safetensors", family, torch.float16, is_sparse=True) for family in LAYERS
    }


@pytest.fixture
def opened(registry):
    def open_at(path, **options):
        options = ModelOptions(path=str(path), **options)
        return open_model(options, dtype=torch.bfloat16, device=torch.device("cpu"), registry=registry)

    return open_at


@contextmanager
def little_is_read(path):
    """See to it that no more is read than the header of a file, to tell the family and for its parts, and a little."""
    with path.open("rb") as file:
        limit = 2 * int.from_bytes(file.read(8), "little") + BUFFER_BYTES
    before = bytes_read()
    yield
    assert bytes_read() - before < limit


def bytes_read():
    return next(int(line.split()[1]) for line in Path("/proc/self/io").read_text().splitlines() if "rchar" in line)


def write_yaml(path):
    path.with_suffix(".yaml").write_text("model:\n  params:\n    parameterization: v\n")


def spread(path):
    """Give an SD2 the bias by which a model that predicts v is told."""
    entry = open_storage(path, SD2).components["unet"].entries[TELLING_BIAS]
    numbers = torch.linspace(-1, 1, *entry.shape, dtype=torch.float16)
    with path.open("r+b") as file:
        file.seek(entry.start)
        file.write(numbers.numpy().tobytes())


V_FORMS = {
    "a bias": ("sd2", (), spread, "a guess from its weights"),
    "a yaml": ("sd2", (), write_yaml, "sidecar m.yaml"),
    "a mark": ("sdxl", ("v_pred", "ztsnr"), lambda path: None, "tensor v_pred"),
}


@pytest.mark.parametrize("family", LAYERS)
def test_a_family_is_told_by_the_header_alone(files, opened, family):
    opened(files[family])  # modules that are imported for it are read too
    with little_is_read(files[family]):
        model = opened(files[family])
    assert (model.family, model.prediction) == (family, "epsilon")
    assert {name: len(part.entries) for name, part in model._storage.components.items()} == TENSORS[family]


@pytest.mark.parametrize("form", V_FORMS)
def test_what_a_model_predicts_is_told_by_little(tmp_path, opened, form):
    family, marks, change, source = V_FORMS[form]
    path = full_model(tmp_path / "m.safetensors", family, torch.float16, is_sparse=True, marks=marks)
    change(path)
    with little_is_read(path):
        model = opened(path)
    assert (model.family, model.prediction) == (family, "v_prediction")
    assert source in model.describe()
    assert model.schedule.has_zero_snr == bool(marks)
    with little_is_read(path), pytest.raises(ModelError, match="says it predicts v") if marks else nullcontext():
        opened(path, prediction="epsilon")


@pytest.mark.parametrize("family", LAYERS)
def test_another_family_than_said_is_refused_by_the_header_alone(files, opened, family):
    for said in LAYERS.keys() - {family}:
        with little_is_read(files[family]), pytest.raises(ModelError, match=rf"\({family}\), but .* is {said}"):
            opened(files[family], family=said)


@pytest.mark.parametrize("family", LAYERS)
@pytest.mark.parametrize("form", ["archive", "folder", "shards"])
def test_every_form_holds_the_same_parts(tmp_path, opened, family, form):
    if form == "archive":
        path = full_checkpoint(tmp_path / "m.ckpt", family, torch.float16)
    else:
        path = full_folder(tmp_path / "m", family, shards=2 if form == "shards" else 1)
    assert sum(file.stat().st_blocks * 512 for file in [path, *path.rglob("*")]) < DISK_BYTES
    model = opened(path)
    assert (model.family, model.prediction) == (family, "epsilon")
    assert {name: len(part.entries) for name, part in model._storage.components.items()} == TENSORS[family]
    if family == "sd1":
        model.load("text_encoder")
        assert not any(parameter.any() for parameter in model.part("text_encoder").parameters())


def test_loading_takes_little_more_memory_than_the_weights(files):
    """One process loads one model after the other, with no other tensors about."""
    command = [sys.executable, str(BENCHMARK), "--into", "bf16", "--load", *map(str, files.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for family, line in zip(files, done.stdout.splitlines(), strict=True):
        told = json.loads(line)
        assert told["layers"] == LAYERS[family]
        assert told["layers"]["unet"] + told["convolutions"]["unet"] == WITH_CONVOLUTIONS[family]
        assert told["tensors"] == TENSORS[family]
        assert told["kept"] == PARAMETERS[family] * torch.bfloat16.itemsize
        assert told["kept"] * 0.98 < told["held"], family
        assert told["peak"] < told["kept"] * BOUND, family
