from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sdtune.errors import ModelError
from sdtune.models.hub import choose_files, is_id
from sdtune.models.open import resolve_path

COMMIT = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"


@pytest.fixture
def cached(own_cache, tiny_folder):
    """The tiny model in the hub's cache, as huggingface_hub lays it out: links to blobs."""
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / "models--owner--tiny"
    snapshot = shutil.copytree(tiny_folder, repository / "snapshots" / COMMIT)
    (repository / "blobs").mkdir()
    for number, file in enumerate(path for path in snapshot.rglob("*") if path.is_file()):
        blob = file.rename(repository / "blobs" / f"{number:064x}")
        file.symlink_to(blob)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot


def test_an_id_in_the_cache_is_opened_without_a_network(cached, open_sd):
    model = open_sd(Path("owner/tiny"))
    assert (model.source.path, model.source.name, model.family) == (cached, "tiny", "sd1")


def test_a_snapshot_that_lacks_a_part_is_not_taken(cached):
    shutil.rmtree(cached / "vae")
    with pytest.raises(ModelError, match=r"no file or folder owner/tiny, and no such model in the Hugging Face cache"):
        resolve_path("owner/tiny")


def test_without_a_network_the_remedy_is_told(own_cache):
    with pytest.raises(ModelError, match=r"with a network, run 'hf download owner/tiny' once \(model.path\)"):
        resolve_path("owner/tiny")


def test_a_folder_here_comes_before_the_hub(cached, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "tiny").mkdir(parents=True)
    assert resolve_path("owner/tiny") == Path("owner/tiny")


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("runwayml/stable-diffusion-v1-5", True),
        ("models/sd15.safetensors", False),
        ("models/sd15.CKPT", False),
        ("/models/sd15", False),
        ("../models/sd15", False),
        ("a/b/c", False),
        ("sd15", False),
        ("a/..", False),
    ],
)
def test_an_id_is_an_owner_and_a_name(path, answer):
    assert is_id(path) is answer


def test_one_form_of_each_part_is_downloaded():
    stem = "diffusion_pytorch_model"
    kept = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "unet/config.json",
        f"unet/{stem}.safetensors.index.json",
        f"unet/{stem}-00001-of-00002.safetensors",
        f"unet/{stem}-00002-of-00002.safetensors",
        f"vae/{stem}.safetensors",
        "text_encoder/pytorch_model.bin",
    ]
    left = [
        "README.md",
        "v1-5-pruned.safetensors",
        "safety_checker/model.safetensors",
        f"unet/{stem}.bin",
        f"unet/{stem}.fp16-00001-of-00002.safetensors",
        f"unet/{stem}.safetensors.index.fp16.json",
        f"vae/{stem}.fp16.safetensors",
        "text_encoder/flax_model.msgpack",
        "unet/evil.py",
    ]
    assert sorted(choose_files([*kept, *left])) == sorted(kept)


def test_an_index_that_is_no_json_is_no_model(cached):
    (cached / "model_index.json").unlink()
    (cached / "model_index.json").write_text(json.dumps([1])[:-1])
    with pytest.raises(ModelError, match="no such model"):
        resolve_path("owner/tiny")
