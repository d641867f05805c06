from __future__ import annotations

import shutil

import pytest

from sdtune.errors import ModelError
from sdtune.models import tokenizer, vocabulary
from sdtune.testing.tiny import WORDS, write_tokenizer


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("words") / "tokenizer")


@pytest.fixture
def model(tmp_path):
    """Where a model would lie in a webui."""
    folder = tmp_path / "ui" / "models" / "checkpoints"
    folder.mkdir(parents=True)
    return folder / "m.safetensors"


def test_each_word_is_one_token_between_start_and_end(small):
    loaded = tokenizer.load_tokenizer(small)
    ids = loaded(" ".join(WORDS)).input_ids
    assert len(ids) == len(WORDS) + 2
    assert (ids[0], ids[-1]) == (len(loaded) - 2, len(loaded) - 1)
    assert loaded.model_max_length == 77


@pytest.mark.parametrize(
    "place",
    [
        "ui/models/checkpoints/tokenizer",
        "ui/comfy/sd1_tokenizer",
        "ui/backend/huggingface/runwayml/stable-diffusion-v1-5/tokenizer",
    ],
)
def test_a_tokenizer_near_the_model_is_found(tmp_path, small, model, place):
    shutil.copytree(small, tmp_path / place)
    assert tokenizer.find_tokenizer(model) == tmp_path / place


def test_the_vocabulary_in_a_webuis_own_python_is_found(tmp_path, model):
    path = tmp_path / "ui" / "venv" / "lib" / "python3.10" / "site-packages" / "open_clip" / vocabulary.BPE_NAME
    path.parent.mkdir(parents=True)
    path.touch()
    assert tokenizer.find_tokenizer(model) == path


def test_the_hub_cache_is_looked_through(own_cache, small, model):
    snapshot = own_cache.parent / "hub" / "models--openai--clip-vit-large-patch14" / "snapshots" / "abc"
    shutil.copytree(small, snapshot)
    assert tokenizer.find_tokenizer(model) == snapshot


def test_what_is_given_wins(small, tmp_path, model):
    shutil.copytree(small, model.parent / "tokenizer")
    assert tokenizer.find_tokenizer(model, small) == small


def test_the_environment_names_a_tokenizer(monkeypatch, small, model):
    monkeypatch.setenv("SDTUNE_TOKENIZER", str(small))
    assert tokenizer.find_tokenizer(model) == small


def test_a_given_folder_without_a_tokenizer_is_told(tmp_path, model):
    with pytest.raises(ModelError, match=r"no vocab.json with merges.txt.*model.tokenizer"):
        tokenizer.find_tokenizer(model, tmp_path)


@pytest.mark.parametrize("name", ["SDTUNE_OFFLINE", "HF_HUB_OFFLINE"])
def test_without_network_one_line_names_the_remedies(monkeypatch, model, name):
    monkeypatch.delenv("SDTUNE_OFFLINE")
    monkeypatch.setenv(name, "1")
    with pytest.raises(ModelError, match=r"sdtune models tokenizer.*model\.tokenizer.*beside the model") as caught:
        tokenizer.find_tokenizer(model)
    assert "\n" not in str(caught.value)


def test_a_small_tokenizer_is_not_kept_for_other_models(small):
    with pytest.raises(ModelError, match="CLIP's has 49,408"):
        tokenizer.keep_folder(small)


@pytest.mark.slow
def test_a_full_sized_tokenizer_is_kept_and_found(tmp_path, model):
    folder = write_tokenizer(tmp_path / "full", size=vocabulary.SIZE)
    kept = tokenizer.keep_folder(folder)
    assert tokenizer.find_tokenizer(model) == kept
    assert len(tokenizer.load_tokenizer(kept)) == vocabulary.SIZE


def test_a_tokenizer_larger_than_the_text_encoder_is_told(tmp_path, tiny_file, registry):
    import torch

    from sdtune.config.model import ModelOptions
    from sdtune.models.open import open_model

    bigger = write_tokenizer(tmp_path / "bigger", words=[*WORDS, "elephant"])
    options = ModelOptions(path=str(tiny_file), tokenizer=bigger)
    model = open_model(options, dtype=torch.float32, device=torch.device("cpu"), registry=registry)
    with pytest.raises(ModelError, match=r"the tokenizer .*bigger has \d+ tokens, the text encoder \d+"):
        model.count_tokens("elephant")
