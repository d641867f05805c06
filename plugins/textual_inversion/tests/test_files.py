import pytest
import torch
from diffusers import StableDiffusionPipeline

from sdtune.api import ConfigError, ModelError, read_embedding, write_artifact
from sdtune.testing.webui import load_like_webui
from sdtune_textual_inversion.config import FORMATS
from sdtune_textual_inversion.files import make_artifact

PROMPT = "a photo of a newt dog on a red boat"


def write(embedding, form, folder):
    return write_artifact(make_artifact(embedding, form, is_delivered=True), None, folder, dtype="fp16")


@pytest.mark.parametrize("form", FORMATS)
def test_each_form_gives_back_its_embedding(tmp_path, embedding, form, same):
    path = write(embedding, form, tmp_path)
    assert path.name == f"newt.{form}"
    found = read_embedding(path)
    assert same(found, embedding)
    assert found.name == "newt"


@pytest.mark.parametrize("form", FORMATS)
def test_each_form_holds_both_text_encoders(tmp_path, wide_embedding, form, same):
    assert same(read_embedding(write(wide_embedding, form, tmp_path)), wide_embedding)


def test_webuis_safe_loader_reads_the_pt(tmp_path, embedding):
    content = load_like_webui(write(embedding, "pt", tmp_path))
    assert content["string_to_token"] == {"*": 265}
    assert torch.equal(content["string_to_param"]["*"], embedding.vectors["clip_l"])
    assert type(content["string_to_param"]) is dict


def test_files_of_other_programs_are_read(tmp_path, embedding, same):
    vectors = embedding.vectors["clip_l"]
    torch.save({"<newt>": vectors}, tmp_path / "learned_embeds.bin")
    torch.save({"string_to_param": {"*": torch.nn.Parameter(vectors)}, "name": "x"}, tmp_path / "old.pt")
    assert same(read_embedding(tmp_path / "learned_embeds.bin"), embedding)
    assert same(read_embedding(tmp_path / "old.pt"), embedding)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.png"])
def test_a_broken_file_is_told(tmp_path, name):
    (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(ModelError, match=name):
        read_embedding(tmp_path / name)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match="no file"):
        read_embedding(tmp_path / "a.pt")


@pytest.mark.parametrize(("form", "token"), [("pt", None), ("safetensors", "newt")])
def test_diffusers_encodes_the_prompt_as_the_live_model(tmp_path, model, model_path, embedding, form, token):
    model.set_embeddings({"newt": embedding.vectors})
    live = model.encode_prompt([PROMPT]).hidden
    pipeline = StableDiffusionPipeline.from_pretrained(model_path, local_files_only=True)
    pipeline.load_textual_inversion(write(embedding, form, tmp_path), token=token)
    found, _ = pipeline.encode_prompt(PROMPT, "cpu", 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(found, live, rtol=1e-5, atol=1e-5)
