from __future__ import annotations

import logging
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdtune.config.model import ModelOptions
from sdtune.errors import ModelError
from sdtune.models.architecture import FAMILIES
from sdtune.models.autoencoder import choose_dtype
from sdtune.models.base import ModelSource
from sdtune.models.sd import StableDiffusion
from sdtune.testing.tiny import SHALLOW, tiny_model

PREFIX = "first_stage_model."


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("base") / "base.safetensors", "sd1")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another model of the family, as a folder: its VAE is the one to be put into the base."""
    return tiny_model(tmp_path_factory.mktemp("other") / "other", "sd1", seed=1)


@pytest.fixture(scope="module")
def other_file(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("file") / "other.safetensors", "sd1", seed=1)


def open_with(path, *, family="sd1", dtype=torch.float32, **options):
    source = ModelSource(
        path=path,
        name=path.stem,
        dtype=dtype,
        device=torch.device("cpu"),
        options=ModelOptions(path=str(path), **options),
    )
    return StableDiffusion(source, FAMILIES[family])


@pytest.fixture
def pixels():
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(
    params=["bare", "prefixed", "pickled", "model file", "vae folder", "model folder", "diffusers file", "ldm folder"]
)
def vae_path(request, tmp_path, other, other_file):
    """The other VAE in each form it is found in."""
    tensors = {name: tensor for name, tensor in load_file(other_file).items() if name.startswith(PREFIX)}
    path = tmp_path / "other.vae.safetensors"
    match request.param:
        case "bare":
            save_file({name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}, path)
        case "prefixed":
            save_file(tensors, path)
        case "ldm folder":
            path = tmp_path / "kl-f8"
            path.mkdir()
            save_file({name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}, path / "model.ckpt")
        case "pickled":
            path = tmp_path / "other.vae.pt"
            torch.save({"state_dict": {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}}, path)
        case "model file":
            path = other_file
        case "vae folder":
            path = other / "vae"
        case "model folder":
            path = other
        case "diffusers file":
            path = other / "vae" / "diffusion_pytorch_model.safetensors"
    return path


def test_another_vae_takes_the_place_of_the_models_own_everywhere(base, other_file, vae_path, pixels):
    model, expected = open_with(base, vae=vae_path), open_with(other_file)
    assert model.part_digest("vae") == expected.part_digest("vae") != open_with(base).part_digest("vae")
    for each in (model, expected):
        each.load("vae")
    assert torch.equal(model.encode_images(pixels).mean, expected.encode_images(pixels).mean)
    latents = torch.ones(1, 4, 2, 2)
    assert torch.equal(model.decode_latents(latents), expected.decode_latents(latents))


def test_another_vae_goes_into_the_exported_model(base, other, other_file):
    written, theirs, own = open_with(base, vae=other).webui_state_dict(), load_file(other_file), load_file(base)
    for name, tensor in written.items():
        assert torch.equal(tensor, (theirs if name.startswith(PREFIX) else own)[name])
    folder = open_with(base, vae=other).diffusers_files()
    stored = load_file(other / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(folder["vae/diffusion_pytorch_model.safetensors"][name], stored[name]) for name in stored)


def test_a_checkpoint_without_a_vae_is_whole_with_one(tmp_path, base, other):
    bare = {name: tensor for name, tensor in load_file(base).items() if not name.startswith(PREFIX)}
    save_file(bare, tmp_path / "pruned.safetensors")
    with pytest.raises(ModelError, match=r"has no vae; give one, model.vae=FILE"):
        open_with(tmp_path / "pruned.safetensors")
    open_with(tmp_path / "pruned.safetensors", vae=other).load("vae")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"emb_params": torch.zeros(1, 8)}, "is no VAE; it holds a textual inversion embedding"),
        ({"encoder.conv_in.weight": torch.zeros(8, 3, 3, 3)}, "is no VAE"),
        (
            {"encoder.conv_in.weight": torch.zeros(8, 3, 3, 3), "decoder.conv_in.weight": torch.zeros(8, 16, 3, 3)},
            r"another kind of model: 16 latent channels \(not 4\)",
        ),
    ],
)
def test_what_is_no_vae_of_the_model_is_refused_in_a_line(tmp_path, base, tensors, message):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=message) as caught:
        open_with(base, vae=tmp_path / "x.safetensors")
    assert "\n" not in str(caught.value)


def test_the_vae_of_another_family_is_refused(tmp_path, base):
    folder = tiny_model(tmp_path / "xl", "sdxl", depths=SHALLOW["sdxl"])
    with pytest.raises(ModelError, match="another kind of model"):
        open_with(base, vae=folder)


@pytest.mark.parametrize(
    ("name", "message"), [("nothing.safetensors", "there is no VAE"), ("empty", r"has no diffusion_pytorch_model")]
)
def test_a_vae_that_is_not_there_is_refused(tmp_path, base, name, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=message):
        open_with(base, vae=tmp_path / name)


@pytest.mark.parametrize(
    ("dtype", "config", "overflows", "expected"),
    [
        (torch.float16, {}, True, torch.float32),
        (torch.float16, {"force_upcast": True}, True, torch.float32),
        (torch.float16, {"force_upcast": False}, True, torch.float16),
        (torch.float16, {"force_upcast": True}, False, torch.float16),
        (torch.bfloat16, {}, True, torch.bfloat16),
        (torch.float32, {}, True, torch.float32),
    ],
)
def test_float16_is_left_where_numbers_grow_too_large(dtype, config, overflows, expected):
    assert choose_dtype(dtype, config, overflows=overflows) == expected


def test_an_sdxl_run_in_float16_holds_its_vae_in_float32_and_says_so(tmp_path):
    model = open_with(
        tiny_model(tmp_path / "xl.safetensors", "sdxl", depths=SHALLOW["sdxl"]), family="sdxl", dtype=torch.float16
    )
    model.load("vae")
    assert (model.dtype_of("vae"), model.part("vae").dtype, model.dtype_of("unet")) == (
        torch.float32,
        torch.float32,
        torch.float16,
    )
    assert any("float32" in note for note in model.notes())


@pytest.fixture
def overflowing(tmp_path, base):
    """A model whose VAE gives numbers beyond 65,504, float16's largest, on its way in and on its way out."""
    tensors = load_file(base)
    for side in ("encoder", "decoder"):
        tensors[f"{PREFIX}{side}.conv_in.weight"] *= 1e6
    save_file(tensors, tmp_path / "hot.safetensors")
    return tmp_path / "hot.safetensors"


WARNING = "the VAE gave NaN in float16 for a picture; such pictures are computed again in float32"


def test_an_image_that_overflows_is_encoded_again_in_float32(overflowing, pixels, caplog):
    exact, half = open_with(overflowing), open_with(overflowing, dtype=torch.float16)
    exact.load("vae")
    half.load("vae")
    with caplog.at_level(logging.WARNING):
        answers = [half.encode_images(pixels) for _ in range(2)]
    expected = exact.encode_images(pixels)
    assert all(torch.equal(answer.mean, expected.mean) for answer in answers)
    assert all(torch.equal(answer.std, expected.std) for answer in answers)
    assert caplog.messages == [WARNING]


def test_latents_depend_on_no_other_image_that_overflowed(tmp_path, base, pixels):
    """A cache may be filled in any order, and stopped: its key tells only weights and dtype."""
    tensors = load_file(base)
    tensors[f"{PREFIX}encoder.conv_in.weight"].fill_(4e4)  # a white image gives more than float16 holds, a grey one not
    save_file(tensors, tmp_path / "hot.safetensors")
    half, whole = torch.float16, torch.float32
    fresh, used, exact = (open_with(tmp_path / "hot.safetensors", dtype=dtype) for dtype in (half, half, whole))
    pixels, faint = torch.ones_like(pixels), pixels * 1e-6
    for model in (fresh, used, exact):
        model.load("vae")
    used.encode_images(pixels)
    assert used.dtype_of("vae") == half
    assert torch.equal(used.encode_images(faint).mean, fresh.encode_images(faint).mean)
    assert not torch.equal(fresh.encode_images(faint).mean, exact.encode_images(faint).mean)
    mixed, calm = (fresh.encode_images(torch.cat([faint, other])).mean for other in (pixels, faint))
    assert torch.equal(mixed, torch.cat([calm[:1], exact.encode_images(pixels).mean]))


def test_weights_in_float32_go_with_the_vae(overflowing, pixels):
    half = open_with(overflowing, dtype=torch.float16)
    half.load("vae")
    half.encode_images(pixels)
    wide = weakref.ref(half._autoencoder._wide)
    half.unload("vae")
    assert wide() is None


def test_a_picture_that_overflows_is_decoded_again_in_float32(overflowing):
    exact, half = open_with(overflowing), open_with(overflowing, dtype=torch.float16)
    latents = torch.ones(1, 4, 2, 2)
    for model in (exact, half):
        model.load("vae")
    assert torch.equal(half.decode_latents(latents), exact.decode_latents(latents))


def test_latents_that_are_not_finite_are_not_the_vaes_fault(base, caplog):
    half = open_with(base, dtype=torch.float16)
    half.load("vae")
    half.decode_latents(torch.full((1, 4, 2, 2), torch.nan))
    assert half.dtype_of("vae") == torch.float16
    assert caplog.messages == []
