import pytest
import torch
from safetensors.torch import load_file, save_file

from sdtune.errors import ConfigError, ModelError
from sdtune.export.pickled import encode_pickled
from sdtune.formats.card import encode_card, read_card
from sdtune.formats.convert import convert
from sdtune.formats.embedding import embedding_tensors
from sdtune.formats.embedding_files import read_embedding
from sdtune.formats.outputs import Request
from sdtune.formats.recognize import recognize
from sdtune.testing.webui import load_like_webui


@pytest.fixture
def path(tmp_path, embedding):
    save_file(embedding_tensors(embedding), tmp_path / "newt.safetensors")
    return tmp_path / "newt.safetensors"


def output(source, target, **options):
    (output,) = convert(Request(source=recognize(source), target=target, **options)).outputs
    return output


def test_a_pt_is_read_by_webuis_safe_loader_and_named_as_the_file(tmp_path, path, embedding):
    (tmp_path / "cat.pt").write_bytes(encode_pickled(output(path, tmp_path / "cat.pt").content))
    found = load_like_webui(tmp_path / "cat.pt")
    assert found["name"] == "cat"
    assert torch.equal(found["string_to_param"]["*"], embedding.vectors["clip_l"])


def test_a_picture_holds_the_embedding(tmp_path, path, embedding, same):
    (tmp_path / "cat.png").write_bytes(output(path, tmp_path / "cat.png").content)
    assert same(read_card(tmp_path / "cat.png"), embedding)


def test_a_card_becomes_tensors_again(tmp_path, embedding):
    (tmp_path / "newt.png").write_bytes(encode_card(embedding))
    found = output(tmp_path / "newt.png", tmp_path / "x.safetensors").tensors
    assert torch.equal(found["emb_params"], embedding.vectors["clip_l"])


def test_diffusers_form_has_one_tensor_named_as_the_word(tmp_path, path, embedding):
    found = output(path, tmp_path / "cat.safetensors", to="diffusers")
    assert found.tensors.keys() == {"cat"}
    assert found.metadata == {"format": "pt"}


def test_both_text_encoders_stay(tmp_path, wide_embedding):
    save_file(embedding_tensors(wide_embedding), tmp_path / "w.safetensors")
    content = output(tmp_path / "w.safetensors", tmp_path / "w.pt").content
    assert content.keys() == {"clip_l", "clip_g"}
    with pytest.raises(ModelError, match="two text encoders"):
        output(tmp_path / "w.safetensors", tmp_path / "d.safetensors", to="diffusers")


@pytest.mark.parametrize(
    ("name", "options"), [("x.bin", {}), ("x", {}), ("x.pt", {"dtype": "fp16"}), ("x.pt", {"to": "hcp"})]
)
def test_other_forms_are_refused(tmp_path, path, name, options):
    with pytest.raises(ConfigError):
        output(path, tmp_path / name, **options)


def test_half_precision_is_kept_to_safetensors(tmp_path, path):
    assert output(path, tmp_path / "x.safetensors", dtype="fp16").tensors["emb_params"].dtype == torch.float16


def test_a_file_read_by_the_core_is_the_same_in_every_form(tmp_path, path, embedding, same):
    assert same(read_embedding(path), embedding)
    assert load_file(path).keys() == {"emb_params"}
