from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from sdtune.config.model import ModelOptions
from sdtune.errors import ModelError
from sdtune.models.open import open_model
from sdtune.models.tokenizer import find_tokenizer, open_tokenizer
from sdtune.models.vocabulary import SIZE
from sdtune.testing.full import full_model
from sdtune.testing.tiny import WORDS, write_tokenizer

FAMILIES = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("words") / "tokenizer")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "models" / "m.safetensors"
    path.parent.mkdir()
    path.touch()
    return path


def test_each_word_is_one_token_between_start_and_end(small):
    loaded = open_tokenizer(small, SIZE)
    ids = loaded(" ".join(WORDS)).input_ids
    assert len(ids) == len(WORDS) + 2
    assert (ids[0], ids[-1]) == (len(loaded) - 2, len(loaded) - 1)
    assert loaded.model_max_length == 77


def test_a_single_files_tokenizer_lies_beside_it(small, file):
    beside = shutil.copytree(small, file.parent / "tokenizer")
    assert find_tokenizer(file, None, SIZE) == beside


def test_a_folders_tokenizer_lies_in_it(small, file):
    shutil.copytree(small, file.parent.parent / "tokenizer")
    inside = shutil.copytree(small, file.parent / "tokenizer")
    assert find_tokenizer(file.parent, None, SIZE) == inside


def test_what_is_given_comes_first(small, file):
    shutil.copytree(small, file.parent / "tokenizer")
    assert find_tokenizer(file, small, SIZE) == small


@pytest.mark.parametrize("rows", [SIZE, SIZE + 2])
def test_a_text_encoder_of_clips_size_or_with_added_tokens_takes_clips_own(file, rows):
    (file.parent / "tokenizer").mkdir()
    assert find_tokenizer(file, None, rows) is None


def test_a_smaller_text_encoder_needs_its_own(tiny_file, tmp_path, registry):
    alone = shutil.copy(tiny_file, tmp_path)
    options = ModelOptions(path=str(alone))
    model = open_model(options, dtype=torch.float32, device=torch.device("cpu"), registry=registry)
    with pytest.raises(ModelError, match=r"has \d+ tokens, CLIP's tokenizer 49,408.*model\.tokenizer") as caught:
        model.count_tokens("a cat")
    assert "\n" not in str(caught.value)


def test_a_given_folder_without_a_tokenizer_is_told(tmp_path, file):
    with pytest.raises(ModelError, match=r"no vocab.json with merges.txt.*model.tokenizer"):
        find_tokenizer(file, tmp_path, SIZE)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", "{"),
        ("merges.txt", "#version: 0.2\nqq xx\n"),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "[]"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_told(small, tmp_path, name, content):
    broken = shutil.copytree(small, tmp_path / "broken")
    (broken / name).write_text(content)
    with pytest.raises(ModelError, match=r"the tokenizer .*broken cannot be read"):
        open_tokenizer(broken, SIZE)


def test_a_tokenizer_larger_than_the_text_encoder_is_told(tmp_path, tiny_file, registry):
    bigger = write_tokenizer(tmp_path / "bigger", words=[*WORDS, "elephant"])
    options = ModelOptions(path=str(tiny_file), tokenizer=bigger)
    model = open_model(options, dtype=torch.float32, device=torch.device("cpu"), registry=registry)
    with pytest.raises(ModelError, match=r"the tokenizer .*bigger has \d+ tokens, the text encoder \d+"):
        model.count_tokens("elephant")


_ALONE = """
import json, sys

def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
        sys.exit(f"{event} {args}")

import torch
from sdtune.config.model import ModelOptions
from sdtune.models.open import open_model
from sdtune.plugins import Registry

sys.addaudithook(refuse)
for path in sys.argv[1:]:
    options, cpu = ModelOptions(path=path), torch.device("cpu")
    model = open_model(options, dtype=torch.float16, device=cpu, registry=Registry.from_plugins([]))
    print(json.dumps([model.family, model.tokenizer("a photo of a cat").input_ids]))
"""


@pytest.mark.slow
def test_a_single_file_alone_needs_no_network_and_no_cache(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    files = [
        full_model(tmp_path / f"{family}.safetensors", family, torch.float16, is_sparse=True) for family in FAMILIES
    ]
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        env=kept | {"HOME": str(home), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert told == [[family, [49406, 320, 1125, 539, 320, 2368, 49407]] for family in FAMILIES]
    assert list(home.iterdir()) == []
