from dataclasses import replace
from types import SimpleNamespace

import torch

from sdtune.testing.models import open_tiny_sd1
from sdtune_dreambooth.config import DreamBoothOptions
from sdtune_dreambooth.method import DreamBoothMethod

RUN = SimpleNamespace(name="zwx")


def attach(model, **options):
    method = DreamBoothMethod(DreamBoothOptions(**options))
    return method, method.attach(model, seed=0)


def test_attaching_changes_no_bit_of_the_answer(make_model, predict):
    expected = predict(make_model())
    model = make_model()
    attach(model, text_encoder=True)
    assert torch.equal(predict(model), expected)


def test_the_unet_alone_learns_by_default(make_model):
    model = make_model()
    _, groups = attach(model)
    assert [(group.name, group.part, group.lr, group.stop) for group in groups] == [("unet", "unet", 2e-6, None)]
    assert {name for name, p in model.named_parameters() if p.requires_grad} == groups[0].params.keys()
    assert len(groups[0].params) == 686


def test_the_text_encoder_learns_at_its_own_rate_until_it_stops(make_model):
    _, groups = attach(make_model(), text_encoder=True, text_encoder_lr=5e-6, text_encoder_stop="75%")
    assert [(group.name, group.lr, group.stop) for group in groups][1:] == [("text_encoder", 5e-6, "75%")]
    assert "text_encoder.text_model.embeddings.token_embedding.weight" in groups[1].params
    assert "text_encoder.text_model.final_layer_norm.bias" in groups[1].params


def test_a_unet_rate_of_zero_trains_the_text_encoder_alone(make_model):
    _, groups = attach(make_model(), unet_lr=0, text_encoder=True)
    assert [group.part for group in groups] == ["text_encoder"]


def test_every_parameter_that_matters_gets_a_gradient(make_model):
    model = make_model()
    _, groups = attach(model, text_encoder=True)
    model.denoise(
        torch.randn(1, 4, 8, 8), torch.tensor([500]), model.encode_prompt(["a toy"])
    ).square().sum().backward()
    without = {name for group in groups for name, p in group.params.items() if p.grad is None}
    assert without == set()


def test_the_single_file_is_a_whole_model(make_model):
    model = make_model()
    method, _ = attach(model)
    (artifact,) = method.export(model, RUN)
    assert (artifact.kind, artifact.stem, artifact.architecture_suffix) == ("checkpoint", "zwx", "")
    prefixes = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model.")
    assert all(name.startswith(prefixes) for name in artifact.tensors)
    assert sum(name.startswith("model.diffusion_model.") for name in artifact.tensors) == 686
    assert artifact.tensors["first_stage_model.decoder.mid.attn_1.q.weight"].ndim == 4


def test_a_diffusers_folder_is_written_when_asked_for(make_model):
    model = make_model()
    method, _ = attach(model, diffusers=True)
    _, folder = method.export(model, RUN)
    assert (folder.kind, folder.stem, folder.is_delivered) == ("checkpoint", "zwx-diffusers", False)
    assert {
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
    } <= folder.files.keys()


def test_frozen_parts_are_exported_as_stored_whatever_they_are_computed_in(tmp_path, model_path):
    model = open_tiny_sd1(model_path, parts=())
    low = type(model)(replace(model.source, dtype=torch.bfloat16))
    for part in ("vae", "text_encoder"):
        low.load(part)
    method, _ = attach(low)
    (artifact,) = method.export(low, RUN)
    stored = model.webui_state_dict()
    assert artifact.tensors.keys() == stored.keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in artifact.tensors.items())


def test_trained_weights_are_float32_whatever_the_model_is_computed_in(make_model, predict):
    whole = make_model(parts=())
    low = type(whole)(replace(whole.source, dtype=torch.bfloat16))
    attach(low, text_encoder=True)
    attach(whole, text_encoder=True)
    assert {p.dtype for p in low.part("unet").parameters()} == {torch.float32}
    torch.testing.assert_close(predict(low), predict(whole), rtol=0.05, atol=0.05)
