from __future__ import annotations

from collections import Counter

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sdtune.errors import ModelError
from sdtune.models import build
from sdtune.models.architecture import SD1
from sdtune.models.storage import open_storage
from sdtune.models.targets import list_targets
from sdtune.testing.tiny import tiny_sd1


@pytest.fixture(scope="module")
def loaded(open_sd, tiny_folder):
    return open_sd(tiny_folder, *SD1.components)


@pytest.fixture
def noisy():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([3, 700])


def test_both_layouts_give_equal_weights(loaded, open_sd, tiny_file):
    one, other = loaded.webui_state_dict(), open_sd(tiny_file, *SD1.components).webui_state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_parts_are_frozen_and_in_eval_mode(loaded):
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not any(module.training for part in SD1.components for module in loaded.part(part).modules())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_cast_once(loaded, open_sd, tiny_folder, dtype):
    low = open_sd(tiny_folder, "unet", dtype=dtype).part("unet").state_dict()
    assert all(torch.equal(low[name], t.to(dtype)) for name, t in loaded.part("unet").state_dict().items())


def test_a_half_precision_file_is_read_into_full_precision(tmp_path, open_sd):
    path = tiny_sd1(tmp_path / "half.safetensors", dtype=torch.float16)
    weight = open_sd(path, "unet").part("unet").conv_in.weight
    stored = load_file(path)["model.diffusion_model.input_blocks.0.0.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, stored.float())


def test_the_single_file_written_loads_back_equal(tmp_path, loaded, open_sd, tiny_folder):
    tensors = loaded.webui_state_dict()
    assert not any(name.endswith("position_ids") for name in tensors)
    assert tensors["first_stage_model.encoder.mid.attn_1.q.weight"].shape[2:] == (1, 1)
    save_file(tensors, tmp_path / "out.safetensors")
    again = open_sd(tmp_path / "out.safetensors", *SD1.components)
    theirs = again.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in loaded.state_dict().items())


def test_parts_that_are_not_loaded_are_written_from_the_file(loaded, open_sd, tiny_folder):
    tensors = open_sd(tiny_folder, "unet").webui_state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in loaded.webui_state_dict().items())


def test_what_shapes_do_not_tell_travels_in_the_metadata(tmp_path, loaded):
    save_file(loaded.webui_state_dict(), tmp_path / "m.safetensors", metadata=loaded.webui_metadata())
    stored = open_storage(tmp_path / "m.safetensors", SD1).components
    assert stored["text_encoder"].config["num_attention_heads"] == 1
    assert stored["unet"].config["attention_head_dim"] == 8


def test_shapes_tell_what_the_configuration_of_sd15_says(full_width):
    from sdtune.models import architecture, naming

    for part, derive in (
        ("unet", lambda s: architecture.unet_config(s, SD1)),
        ("vae", lambda s: architecture.vae_config(s, SD1)),
    ):
        shapes = {name: tuple(tensor.shape) for name, tensor in full_width[part].state_dict().items()}
        assert {k: full_width[part].config[k] for k in derive(shapes)} == derive(shapes)
    shapes = {naming.text_name(n): tuple(t.shape) for n, t in full_width["text_encoder"].state_dict().items()}
    config = architecture.text_config(shapes, SD1.texts[0])
    true = full_width["text_encoder"].config
    assert {key: getattr(true, key) for key in config} == config | {"projection_dim": true.projection_dim}


def test_tokens_that_were_added_come_behind_clips_end_mark(full_width):
    from sdtune.models import architecture, naming

    shapes = {naming.text_name(n): tuple(t.shape) for n, t in full_width["text_encoder"].state_dict().items()}
    shapes["text_model.embeddings.token_embedding.weight"] = (49410, 768)
    config = architecture.text_config(shapes, SD1.texts[0])
    assert (config["vocab_size"], config["bos_token_id"], config["eos_token_id"]) == (49410, 49406, 49407)


def test_targets_of_sd15_are_counted_as_the_formats_say(full_width):
    unet = Counter(target.kind for target in list_targets("unet", "unet", full_width["unet"].named_modules()))
    assert unet == {"attention": 192, "resnet": 80, "sampler": 6}
    prefix = build.module_prefix(full_width["text_encoder"], "text_encoder")
    modules = ((prefix + name, module) for name, module in full_width["text_encoder"].named_modules())
    assert Counter(target.kind for target in list_targets("text_encoder", "text_encoder", modules)) == {"text": 72}


def test_targets_name_their_block_and_their_place(loaded):
    targets = list(loaded.targets(("unet", "text_encoder")))
    assert targets[0].path == "unet.down_blocks.0.attentions.0.proj_in"
    assert targets[-1].path == "text_encoder.text_model.encoder.layers.1.mlp.fc2"
    assert {target.block for target in targets} >= {"down_0", "mid", "up_3", "layer_1"}
    assert all(isinstance(target.module, nn.Linear | nn.Conv2d) for target in targets)


def test_target_kohya_keys_are_all_different(loaded):
    keys = [loaded.webui_key(target.path) for target in loaded.targets(("unet", "text_encoder"))]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "path",
    ["unet.mid_block.attentions.0.proj_in", "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"],
)
def test_a_replaced_layer_is_used_and_stays_a_target(open_sd, tiny_folder, path):
    model = open_sd(tiny_folder, "unet", "text_encoder")
    old = {target.path: target.module for target in model.targets(("unet", "text_encoder"))}
    new = nn.Sequential(old[path])
    model.replace(path, new)
    now = {target.path: target.module for target in model.targets(("unet", "text_encoder"))}
    assert list(now) == list(old)
    assert now[path] is new


def test_replacing_what_is_not_there_is_an_error(loaded):
    with pytest.raises(AttributeError):
        loaded.replace("unet.mid_block.nothing", nn.Identity())


def test_prompts_have_77_positions_and_long_ones_are_cut(loaded):
    long = " ".join(["a photo of a cat"] * 40)
    hidden = loaded.encode_prompt(["", "a cat", long]).hidden
    assert hidden.shape == (3, 77, 64)
    assert loaded.count_tokens(long) == 200


def test_clip_skip_is_an_encoder_with_fewer_layers(tmp_path, loaded, open_sd, tiny_folder):
    """Skipping one of two layers is what a text encoder that lacks its last layer gives."""
    skipped = open_sd(tiny_folder, "text_encoder", clip_skip=2).encode_prompt(["a red cat"]).hidden
    short = open_sd(tiny_folder, "text_encoder")
    short.part("text_encoder").get_submodule("encoder").layers.__delitem__(1)
    assert torch.equal(skipped, short.encode_prompt(["a red cat"]).hidden)
    assert not torch.equal(skipped, loaded.encode_prompt(["a red cat"]).hidden)


def test_latents_are_the_vaes_times_the_scaling_factor(loaded):
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    posterior = loaded.encode_images(pixels)
    theirs = loaded.part("vae").encode(pixels).latent_dist
    torch.testing.assert_close(posterior.mean, theirs.mean * 0.18215)
    torch.testing.assert_close(posterior.std, theirs.std * 0.18215)
    decoded = loaded.decode_latents(posterior.mean)
    torch.testing.assert_close(decoded, loaded.part("vae").decode(theirs.mean).sample.clamp(-1, 1), atol=1e-5, rtol=0)


def test_gradients_reach_the_text_through_the_unet(open_sd, tiny_folder, noisy):
    model = open_sd(tiny_folder, "unet", "text_encoder")
    embedding = model.part("text_encoder").get_input_embeddings().weight.requires_grad_(True)
    model.denoise(*noisy, model.encode_prompt(["a cat", "a dog"])).square().mean().backward()
    assert embedding.grad.abs().sum() > 0


def test_gradient_checkpointing_changes_no_gradient(open_sd, tiny_folder, noisy):
    def gradients(checkpointing):
        model = open_sd(tiny_folder, "unet", "text_encoder")
        weights = [target.module.weight.requires_grad_(True) for target in model.targets(("unet", "text_encoder"))]
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.denoise(*noisy, model.encode_prompt(["a cat", "a dog"])).square().mean().backward()
        return [weight.grad for weight in weights]

    assert all(torch.equal(a, b) for a, b in zip(gradients(False), gradients(True), strict=True))


def test_attention_is_torchs_own(loaded):
    processors = {type(processor).__name__ for processor in loaded.part("unet").attn_processors.values()}
    assert processors == {"AttnProcessor2_0"}
    assert loaded.part("text_encoder").config._attn_implementation == "sdpa"


def test_unloading_frees_a_part_and_loading_brings_it_back(open_sd, tiny_folder):
    model = open_sd(tiny_folder, "vae")
    model.load("vae")
    model.unload("vae")
    model.unload("vae")
    assert not model.is_loaded("vae")
    with pytest.raises(RuntimeError, match="not loaded"):
        model.part("vae")
    model.load("vae")
    assert model.is_loaded("vae")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.diffusion_model.out.2.bias"), r"1 missing \(conv_out.bias\)"),
        (lambda t: t.update({"model.diffusion_model.time_embed.0.extra": torch.zeros(1)}), "1 not known"),
        (lambda t: t.update({"model.diffusion_model.out.0.bias": torch.zeros(3)}), r"\[3\] instead of \[32\]"),
        (lambda t: t.pop("model.diffusion_model.input_blocks.4.0.in_layers.2.weight"), "is not one of sd1"),
    ],
)
def test_a_damaged_model_says_what_is_wrong(tmp_path, tiny_file, open_sd, change, message):
    tensors = load_file(tiny_file)
    change(tensors)
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(ModelError, match=message):
        open_sd(tmp_path / "bad.safetensors", "unet")


def test_leftovers_in_a_file_do_no_harm(tmp_path, tiny_file, open_sd, loaded):
    extra = {
        "alphas_cumprod": torch.zeros(1000),
        "model_ema.decay": torch.zeros(()),
        "first_stage_model.loss.logvar": torch.zeros(()),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77).float()[None],
    }
    tensors = load_file(tiny_file)
    old = "cond_stage_model.transformer.text_model."
    bare = {name.replace(old, "cond_stage_model.transformer."): tensor for name, tensor in tensors.items()}
    save_file(bare | extra, tmp_path / "old.safetensors")
    theirs = open_sd(tmp_path / "old.safetensors", *SD1.components).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in loaded.state_dict().items())


def test_a_v_prediction_mark_is_heeded(tmp_path, tiny_file, open_sd):
    save_file(load_file(tiny_file) | {"v_pred": torch.zeros(0)}, tmp_path / "v.safetensors")
    assert open_sd(tmp_path / "v.safetensors").prediction == "v_prediction"


@torch.no_grad()
def test_diffusers_and_transformers_load_the_folder_and_agree(loaded, tiny_folder, noisy):
    """Their own loaders, on the files as they are."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    tokens = CLIPTokenizer.from_pretrained(tiny_folder / "tokenizer")(
        ["a red cat", ""], padding="max_length", return_tensors="pt"
    )
    hidden = CLIPTextModel.from_pretrained(tiny_folder / "text_encoder")(tokens.input_ids).last_hidden_state
    cond = loaded.encode_prompt(["a red cat", ""])
    assert torch.equal(hidden, cond.hidden)
    unet = UNet2DConditionModel.from_pretrained(tiny_folder / "unet")
    for weight in unet.parameters():  # theirs lie unaligned in the mapped file, which rounds differently (1.6e-6)
        weight.data = weight.data.clone()
    assert torch.equal(unet(*noisy, cond.hidden).sample, loaded.denoise(*noisy, cond))
    vae = AutoencoderKL.from_pretrained(tiny_folder / "vae")
    assert all(torch.equal(t, loaded.part("vae").state_dict()[name]) for name, t in vae.state_dict().items())
