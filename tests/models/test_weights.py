from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdtune.errors import ModelError
from sdtune.models.digest import part_digest
from sdtune.models.weights import find_weights, open_weights

STEM = "diffusion_pytorch_model"


def _shards(folder, tensors, count=2, variant="", ending="safetensors"):
    """Write weights in several files, as diffusers does."""
    folder.mkdir(parents=True, exist_ok=True)
    places = {}
    for i in range(count):
        name = f"{STEM}{variant}-{i + 1:05}-of-{count:05}.{ending}"
        own = dict(list(tensors.items())[i::count])
        save_file(own, folder / name) if ending == "safetensors" else torch.save(own, folder / name)
        places |= dict.fromkeys(own, name)
    index = folder / f"{STEM}.{ending}.index{variant}.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def _unet(folder):
    return load_file(folder / "unet" / f"{STEM}.safetensors")


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def _swap(folder, write, *, part="unet", stem=STEM):
    """Put other weights in the place of a part's safetensors file."""
    file = folder / part / f"{stem}.safetensors"
    tensors = load_file(file)
    file.unlink()
    write(folder / part, tensors)
    return folder


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_weights_in_several_files_are_those_of_one(folder, tiny_folder, open_sd, variant, ending):
    _swap(folder, lambda place, tensors: _shards(place, tensors, variant=variant, ending=ending))
    one, several = open_sd(tiny_folder, "unet"), open_sd(folder, "unet")
    assert several.part_digest("unet") == one.part_digest("unet")
    pairs = zip(one.part("unet").parameters(), several.part("unet").parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("part", "stem", "name"),
    [("unet", STEM, f"{STEM}.bin"), ("text_encoder", "model", "pytorch_model.bin"), ("vae", STEM, f"{STEM}.fp16.bin")],
)
def test_an_old_folders_bin_is_read(folder, tiny_folder, open_sd, part, stem, name):
    _swap(folder, lambda place, tensors: torch.save(tensors, place / name), part=part, stem=stem)
    assert open_sd(folder).part_digest(part) == open_sd(tiny_folder).part_digest(part)


@pytest.mark.slow
def test_a_ckpt_is_the_model_of_its_safetensors(tiny_file, tmp_path, open_sd):
    shutil.copytree(tiny_file.parent / "tokenizer", tmp_path / "tokenizer")
    torch.save({"state_dict": load_file(tiny_file), "epoch": 3, "global_step": 840_000}, tmp_path / "m.ckpt")
    one, other = (open_sd(path, "unet", "vae", "text_encoder") for path in (tiny_file, tmp_path / "m.ckpt"))
    assert open_weights(tmp_path / "m.ckpt").metadata == {"epoch": "3", "global_step": "840000"}
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_a_matrix_stored_the_other_way_round_has_the_same_digest(tiny_file, tmp_path, open_sd):
    shutil.copytree(tiny_file.parent / "tokenizer", tmp_path / "tokenizer")
    turned = {name: t.t().contiguous().t() if t.ndim == 2 else t for name, t in load_file(tiny_file).items()}
    torch.save(turned, tmp_path / "m.ckpt")
    stored = [open_sd(path)._stored("unet") for path in (tiny_file, tmp_path / "m.ckpt")]
    assert part_digest(stored[0]) == part_digest(stored[1])


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin", ".safetensors", ".weights"])
def test_safetensors_are_read_under_any_name(tmp_path, suffix):
    save_file({"x": torch.ones(2)}, tmp_path / f"m{suffix}")
    assert open_weights(tmp_path / f"m{suffix}").shapes == {"x": (2,)}


def test_nested_tensors_are_named_with_dots(tmp_path):
    torch.save({320: ({"linear.0.weight": torch.ones(2)}, {}), "step": 5}, tmp_path / "h.pt")
    file = open_weights(tmp_path / "h.pt")
    assert (file.shapes, file.metadata) == ({"320.0.linear.0.weight": (2,)}, {"step": "5"})


def test_safetensors_come_before_bin_and_full_precision_before_half(tmp_path):
    for name in (f"{STEM}.bin", f"{STEM}.fp16.safetensors"):
        (tmp_path / name).touch()
    assert find_weights(tmp_path, STEM).name == f"{STEM}.fp16.safetensors"
    (tmp_path / f"{STEM}.safetensors.index.json").touch()
    assert find_weights(tmp_path, STEM).name == f"{STEM}.safetensors.index.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight_map": {"x": "../other.safetensors"}}, "no file with weights beside it"),
        ({"weight_map": {"x": "/etc/passwd"}}, "no file with weights beside it"),
        ({"weight_map": {"x": "a.json"}}, "no file with weights beside it"),
        (
            {"weight_map": {"x": "a.safetensors", "y": "gone.safetensors"}},
            r"names 2 files, of which 1 are not there \(gone.safetensors\); download the folder again",
        ),
        ({"weight_map": {"y": "a.safetensors"}}, r"names 1 tensors that its files lack \(y\)"),
        ({"weight_map": [1]}, "is no index"),
        ([], "is no index"),
    ],
)
def test_an_index_that_lies_is_told(tmp_path, content, message):
    save_file({"x": torch.ones(2)}, tmp_path / "a.safetensors")
    (tmp_path / "m.index.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=message):
        open_weights(tmp_path / "m.index.json")
