"""Files that are no model, or a broken one: exit 4, one line, and nothing in them is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save

import sdtune_lora
from sdtune.testing.full import full_model
from sdtune.testing.images import write_images
from sdtune.testing.runner import command

X = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
PICKLE_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."


def lie(header, body=bytes(16)):
    """Give the bytes of a safetensors file with a header of one's own."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(**changed):
    return {"x": X | changed}


SAFETENSORS = {
    "nothing": (b"", "0 bytes hold no model"),
    "four bytes": (b"\x10\0\0\0", "4 bytes hold no model"),
    "header cut": (struct.pack("<Q", 500) + b'{"x":', "cut short inside its header"),
    "a byte less": (lie(entry())[:-1], "cut short: .* bytes are there"),
    "a byte more": (lie(entry(), bytes(17)), "1 bytes that belong to no tensor"),
    "header of 100 MB": (struct.pack("<Q", 100_000_000) + b"{", "is no safetensors file"),
    "header of 1 TB": (struct.pack("<Q", 1 << 40) + b"{", "is no safetensors file"),
    "overlap": (lie({"x": X, "y": X}), "overlap or leave gaps"),
    "gap": (lie({"x": X, "y": X | {"data_offsets": [20, 36]}}, bytes(36)), "overlap or leave gaps"),
    "beyond the end": (lie(entry(shape=[1 << 20], data_offsets=[0, 1 << 22])), "cut short"),
    "negative offset": (lie(entry(data_offsets=[-16, 0])), "is no size"),
    "negative side": (lie(entry(shape=[-2, -2])), "is no size"),
    "shape of 10**18": (lie(entry(shape=[10**9, 10**9])), "do not fit a shape"),
    "shape of 10**400": (lie(entry(shape=[10**400])), "is no size"),
    "shape of words": (lie(entry(shape=["4"])), "is no size"),
    "many sides": (lie(entry(shape=[1] * 500 + [4])), "do not fit a shape"),
    "ends before it starts": (lie(entry(shape=[0], data_offsets=[16, 0])), "do not fit a shape"),
    "one name twice": (lie(b'{"x":%s,"x":%s}' % ((json.dumps(X).encode(),) * 2)), "stands in it twice"),
    "a list": (lie(b"[1, 2]"), "header cannot be read"),
    "no JSON": (lie(b"{'x': 1}"), "header cannot be read"),
    "deep JSON": (lie(b'{"x":' * 100_000 + b"1" + b"}" * 100_000), "header cannot be read"),
    "a terminal's codes in a name": (lie({"\x1b[2Jx": X}), "control characters"),
    "a name of 10,000": (lie({"x" * 10_000: X}), "overlong"),
    "metadata that is none": (lie({"__metadata__": 3, "x": X}), "header cannot be read"),
    "text": (b"this is my model, enjoy\n" * 20, "holds no weights"),
    "a web page": (b"<!DOCTYPE html><html><body>Please log in", "is a web page"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
    "a pickle": (pickle.dumps({"a": 1}, protocol=2) + bytes(30), "is a pickled file"),
    "a file of torch.save": (b"PK\x03\x04" + bytes(60), "is a pickled file"),
}


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def saved(content, *, is_archive=True):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=is_archive)
    return buffer.getvalue()


def packed_again(data, change=lambda name, content: (name, content), method=zipfile.ZIP_STORED, more=()):
    """Pack a file of torch.save anew, members changed, and others beside them."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w", method) as new:
        for info in old.infolist():
            new.writestr(*change(info.filename, old.read(info)))
        for name, content in more:
            new.writestr(name, content)
    return packed.getvalue()


def with_pickle(code):
    """Give a file of torch.save whose pickle is one's own."""
    return packed_again(
        saved({"x": torch.ones(4)}), lambda name, old: (name, code if name.endswith("data.pkl") else old)
    )


def overlapping():
    """Let both entries of a directory point to one member: the way of the bombs without recursion."""
    data = bytearray(packed_again(saved({"x": torch.ones(4), "y": torch.ones(4)})))
    first, second = (data.rindex(b"archive/data/%d" % i) - 46 for i in (0, 1))
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    return bytes(data)


def short_storage():
    data = saved({"x": torch.arange(1000.0)})
    return packed_again(data, lambda name, old: (name, old[:400] if name.endswith("data/0") else old))


ONE = saved({"x": torch.ones(4)})
LISTS = b"\x80\x02]q\x00" + b"".join(b"]q%c(h%ch%ce" % (i + 1, i, i) for i in range(200)) + b"."
PICKLES = {
    "cut archive": (ONE[: len(ONE) // 2], "cut short or damaged"),
    "cut row": (saved({"x": torch.ones(400)}, is_archive=False)[:-9], "cut short"),
    "cut inside its pickle": (saved({"x": torch.ones(4)}, is_archive=False)[:60], "its pickle is damaged"),
    "packed members": (packed_again(ONE, method=zipfile.ZIP_DEFLATED), "packed, which torch.save does not do"),
    "bomb": (
        packed_again(ONE, method=zipfile.ZIP_DEFLATED, more=[("archive/data/9", bytes(64 << 20))]),
        "packed, which torch.save does not do",
    ),
    "members over each other": (overlapping(), "contradict each other|overlap"),
    "a way out": (packed_again(ONE, more=[("archive/../../evil", b"x")]), r"holds 'archive/../../evil'"),
    "an absolute name": (packed_again(ONE, more=[("/etc/evil", b"x")]), "which torch.save does not write"),
    "a Windows name": (packed_again(ONE, more=[("archive/data\\..\\evil", b"x")]), "does not write"),
    "a program": (packed_again(ONE, more=[("archive/code/model.py", b"x")]), "'archive/code/model.py', which"),
    "any archive": (packed_again(ONE, lambda name, old: (f"word/{name}.xml", old)), "does not write"),
    "big-endian": (packed_again(ONE, lambda n, c: (n, b"big" if n.endswith("byteorder") else c)), "big-endian"),
    "fewer numbers than told": (short_storage(), "larger than its numbers"),
    "a tensor of one number": (saved({"x": torch.ones(1).expand(1 << 40)}), "repeats its own numbers"),
    "lists of lists": (with_pickle(LISTS), "unfolds to more"),
    "a list in itself": (with_pickle(b"\x80\x02}q\x00X\x01\0\0\0xh\0s."), "unfolds to more"),
    "a deep list": (with_pickle(b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b"."), "unfolds to more"),
    "a string of 4 GB": (with_pickle(b"\x80\x02X\xff\xff\xff\xffabc."), "its pickle is damaged"),
    "too little on the stack": (with_pickle(b"\x80\x02tR."), "its pickle is damaged"),
    "a forgotten opcode": (with_pickle(b"\x80\x02(ios\nsystem\n."), "uses INST"),
    "a row of another program": (pickle.dumps([1, 2]) + bytes(20), "not one of torch.save"),
    "a row with its magic alone": (PICKLE_MAGIC, "its pickle is damaged"),
    "text as .ckpt": (b"hello, this is no model at all", "holds no weights"),
    "numbers without names": (saved([torch.ones(2)]), "holds no named tensors"),
}
EVIL = {
    "archive": lambda evil: saved({"state_dict": {"x": torch.ones(2)}, "callbacks": evil}),
    "row": lambda evil: saved({"x": torch.ones(2), "e": evil}, is_archive=False),
    "row's first pickle": lambda evil: pickle.dumps(evil, protocol=2) + PICKLE_MAGIC,
    "new protocol": lambda evil: with_pickle(pickle.dumps(evil, protocol=4)),
    "bare": lambda evil: pickle.dumps(evil, protocol=0),
    "builtin": lambda evil: with_pickle(b"\x80\x02cbuiltins\nexec\nX\x04\0\0\0pass\x85R."),
    "torch": lambda evil: with_pickle(b"\x80\x02ctorch.hub\nload\nX\x04\0\0\0evil\x85R."),
}
WRONG = {
    "LoRA": ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": 1}, "a LoRA or LyCORIS"),
    "embedding": ({"emb_params": 1}, "a textual inversion embedding"),
    "VAE": ({"first_stage_model.encoder.conv_in.weight": 1, "first_stage_model.decoder.conv_in.weight": 1}, "a VAE"),
    "ControlNet": ({"control_model.time_embed.0.weight": 1}, "a ControlNet"),
    "Flux": ({"double_blocks.0.img_attn.qkv.weight": 1}, "a Flux model"),
    "text encoder": ({"text_model.final_layer_norm.weight": 1}, "a text encoder without a UNet"),
    "no tensors": ({}, "no tensors"),
}
TO_Q = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"
EMBEDDING = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
BROKEN = {
    "transposed": ({TO_Q: lambda t: torch.ones(t.shape[1] + 1, t.shape[0])}, "1 of another shape .*attn2.to_k.weight"),
    "missing": ({TO_Q: None}, "1 missing .*attn2.to_k.weight"),
    "NaN": ({TO_Q: lambda t: t.index_fill(0, torch.tensor(3), torch.nan)}, "attn2.to_k.weight in .* holds NaN"),
    "infinity in half precision": ({EMBEDDING: lambda t: (t * torch.inf).half()}, "final_layer_norm.*infinity"),
    "fp8": ({TO_Q: lambda t: t.to(torch.float8_e4m3fn)}, "is F8_E4M3, which is not read"),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "1_thing"
    write_images(folder, 1, sizes=((64, 64),))
    return folder.parent


@pytest.fixture
def refused(images, tmp_path, capsys):
    """Plan a training on a base model; give the one line that says why not."""

    def plan(path, *more):
        options = ["--model", str(path), "--data", str(images), "--method", "lora", "--steps", "1", *more]
        code = command([sdtune_lora], "plan", *options, f"output.dir={tmp_path / 'out'}", "data.resolution=64")
        lines = capsys.readouterr().err.splitlines()
        assert (code, len(lines)) == (4, 1), lines
        assert not (tmp_path / "out").exists()
        return lines[0]

    return plan


def written(path, content):
    path.write_bytes(content)
    return path


def assert_says(line, message):
    assert re.search(message, line), line


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_damaged_safetensors_file_is_refused(tmp_path, refused, name):
    content, message = SAFETENSORS[name]
    assert_says(refused(written(tmp_path / "m.safetensors", content)), message)


@pytest.mark.parametrize("name", PICKLES)
def test_a_damaged_ckpt_is_refused(tmp_path, refused, name):
    content, message = PICKLES[name]
    assert_says(refused(written(tmp_path / "m.ckpt", content)), message)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".safetensors"])
@pytest.mark.parametrize("name", EVIL)
def test_code_in_a_file_is_not_run(tmp_path, refused, name, suffix):
    content = EVIL[name](Evil(tmp_path / "canary"))
    assert_says(refused(written(tmp_path / f"m{suffix}", content)), "code|pickled file|holds no weights")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["archive", "row"])
def test_the_code_that_a_file_holds_is_named(tmp_path, refused, name):
    content = EVIL[name](Evil(tmp_path / "canary"))
    assert_says(refused(written(tmp_path / "m.ckpt", content)), r"it holds code \(posix.system|nt.system")


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_no_base_model_is_called_what_it_is(tmp_path, refused, name, suffix):
    shapes, message = WRONG[name]
    tensors = {name: torch.ones(1) for name in shapes}
    content = save(tensors) if suffix == ".safetensors" else saved(tensors)
    assert_says(refused(written(tmp_path / f"m{suffix}", content)), f"m{suffix} holds {message}")


def test_an_embedding_of_webui_is_called_what_it_is(tmp_path, refused):
    content = saved({"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(1, 4)}, "name": "x"})
    assert_says(refused(written(tmp_path / "x.pt", content)), "x.pt holds a textual inversion embedding")


@pytest.mark.parametrize(
    ("true", "said", "message"),
    [
        ("sdxl", "sd1", r"holds Stable Diffusion XL \(sdxl\), but model.family is sd1"),
        ("sd2", "sd1", r"holds Stable Diffusion 2 \(sd2\), but model.family is sd1"),
        ("sd1", "sdxl", r"holds Stable Diffusion 1 \(sd1\), but model.family is sdxl"),
    ],
)
def test_a_model_of_another_family_than_said_is_refused_by_its_header(tmp_path, refused, true, said, message):
    # at full width, with a hole where the weights should be: none is read
    path = full_model(tmp_path / "m.safetensors", true, torch.float16, is_sparse=True)
    assert_says(refused(path, f"model.family={said}"), message)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_is_refused_and_the_tensor_named(tmp_path, tiny_file, refused, name, suffix):
    changes, message = BROKEN[name]
    (tmp_path / "tokenizer").symlink_to(tiny_file.parent / "tokenizer")
    tensors = load_file(tiny_file)
    for key, change in changes.items():
        old = tensors.pop(key)
        tensors |= {key: change(old).contiguous()} if change else {}
    content = save(tensors) if suffix == ".safetensors" else saved({"state_dict": tensors})
    assert_says(refused(written(tmp_path / f"m{suffix}", content)), message)


def test_folders_and_things_that_are_no_files_are_refused(tmp_path, refused):
    assert_says(refused(tmp_path), "not a diffusers model: it has no folder 'unet'")
    assert_says(refused(tmp_path / "none.ckpt"), "there is no model .*none.ckpt")
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert_says(refused(tmp_path / "pipe.safetensors"), "is not a regular file")


def test_a_folder_with_damaged_parts_is_refused(tmp_path, tiny_folder, refused):
    (tmp_path / "m" / "unet").mkdir(parents=True)
    assert_says(refused(tmp_path / "m"), "has no diffusion_pytorch_model.safetensors; found: nothing")
    (tmp_path / "m" / "unet" / "diffusion_pytorch_model.bin").write_bytes(EVIL["archive"](Evil(tmp_path / "canary")))
    assert_says(refused(tmp_path / "m"), "it holds code")
    assert not (tmp_path / "canary").exists()
