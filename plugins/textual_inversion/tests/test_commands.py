import pytest
import torch

import sdtune_textual_inversion
from sdtune.api import read_embedding
from sdtune.testing.runner import command
from sdtune.testing.webui import load_like_webui
from sdtune_textual_inversion.config import FORMATS

PLUGINS = [sdtune_textual_inversion]


@pytest.fixture
def create(model, model_path, tmp_path):
    def create(*words):
        return command(PLUGINS, "embedding", "create", *words, "--model", str(model_path), "--output", str(tmp_path))

    return create


def test_create_writes_the_words_of_the_text(create, model, tmp_path):
    assert create("cat_x", "--init-text", "red cat", "--vectors", "3") == 0
    content = load_like_webui(tmp_path / "cat_x.pt")
    red, cat = model.embed_tokens("red cat")["clip_l"]
    assert torch.equal(content["string_to_param"]["*"], torch.stack([red, red, cat]))
    assert (content["name"], content["step"], content["sd_checkpoint_name"]) == ("cat_x", 0, "tiny")


@pytest.mark.parametrize("form", FORMATS)
def test_create_writes_each_form(create, tmp_path, form):
    assert create("cat_x", "--init-text", "", "--format", form) == 0
    found = read_embedding(tmp_path / f"cat_x.{form}")
    assert torch.equal(found.vectors["clip_l"], torch.zeros(1, 64))


def test_create_replaces_a_file_only_when_told(create, capsys):
    assert create("cat_x") == 0
    assert create("cat_x") == 2
    assert "exists" in capsys.readouterr().err
    assert create("cat_x", "--overwrite") == 0


def test_create_refuses_a_name_that_webui_would_change(create, capsys):
    assert create("cat/x") == 2
    assert "must be letters" in capsys.readouterr().err


def test_show_tells_what_a_file_holds(create, tmp_path, capsys):
    create("cat_x", "--vectors", "2")
    capsys.readouterr()
    assert command(PLUGINS, "embedding", "show", str(tmp_path / "cat_x.pt")) == 0
    told = capsys.readouterr().out
    assert "cat_x" in told
    assert "2 x 64" in told
    assert "tiny" in told


@pytest.mark.parametrize("words", [["--lr", "1e-2"], ["--vectors", "2"], ["--token", "newt"]])
@pytest.mark.slow
def test_the_methods_flags_set_its_options(words, model, model_path, tmp_path, capsys):
    from sdtune.testing.images import write_images

    write_images(tmp_path / "data", 1)
    arguments = ["--method", "ti", "--model", str(model_path), "--data", str(tmp_path / "data"), "--steps", "1"]
    assert command(PLUGINS, "plan", *arguments, *words, "--resolution", "64", "--json") == 0
    assert words[1].replace("1e-2", "0.01") in capsys.readouterr().out
