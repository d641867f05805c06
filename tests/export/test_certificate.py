"""A file that acts as trained passes; one that does not is named, with the program and the reason."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sdtune.errors import ModelError
from sdtune.export.certificate import METADATA_KEY, Certificate, Row, certify, write_certificate
from sdtune.export.probe import Probe, ask, ask_loaded
from sdtune.formats.consumers.applying import applied, view_of
from sdtune.formats.consumers.definition import read
from sdtune.formats.consumers.reading import File
from sdtune.testing.models import open_tiny

PROBE = Probe(captions=("a photo of zwx", "a red circle"))
GOOD = {"consumer": "a1111", "file": "zwx.safetensors", "used": 3, "total": 3, "error": 0.001}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return open_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors", "sd1")


def adapter(base, alpha=2.0, size=0.1):
    generator, tensors = torch.Generator().manual_seed(0), {}
    for target in base.targets(("unet",)):
        shape, key = target.module.weight.shape, base.webui_key(target.path)
        if target.kind == "attention":
            tensors[f"{key}.lora_down.weight"] = torch.randn(2, *shape[1:], generator=generator) * size
            tensors[f"{key}.lora_up.weight"] = (
                torch.randn(shape[0], 2, *[1] * (len(shape) - 2), generator=generator) * size
            )
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
    return tensors


def file(tensors):
    return File(path=Path("zwx.safetensors"), kind="lora", tensors=tensors)


def answer(base, tensors):
    """Give the answers of a model trained to what the file means."""
    with applied(base, [read(file(tensors), view_of(base), base)]):
        return ask(base, PROBE)


def certified(base, tensors, trained):
    return certify([file(tensors)], base, PROBE, trained=trained, chosen=("a1111", "comfyui", "kohya"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_rounded_file_passes(base, dtype):
    tensors = adapter(base)
    rounded = {key: t if key.endswith("alpha") else t.to(dtype) for key, t in tensors.items()}
    made = certified(base, rounded, answer(base, tensors))
    made.raise_if_faulty()
    assert (
        max(row.error for row in made.rows)
        < 0.5 * {4: 1e-2, 2: 2e-2 if dtype == torch.float16 else 5e-2}[dtype.itemsize]
    )


@pytest.mark.parametrize("factor", [0.5, 0.9, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_wrong_scale_does_not_pass(base, factor, dtype):
    tensors = adapter(base)
    wrong = {key: t * factor if key.endswith("alpha") else t.to(dtype) for key, t in tensors.items()}
    made = certified(base, wrong, answer(base, tensors))
    with pytest.raises(ModelError, match=r"A1111 does not use zwx.safetensors as trained: another effect"):
        made.raise_if_faulty()


def test_an_alpha_that_was_left_out_does_not_pass(base):
    tensors = adapter(base, alpha=1.0)
    bare = {key: tensor for key, tensor in tensors.items() if not key.endswith("alpha")}
    assert len(certified(base, bare, answer(base, tensors)).faults()) == 3


def test_without_an_effect_there_is_nothing_to_compare(base):
    tensors = adapter(base, size=1e-5)
    made = certified(base, tensors, answer(base, tensors))
    assert made.effect is None
    assert {row.verdict for row in made.rows} == {"good, no effect to compare"}


def test_a_broken_answer_is_wrong(base):
    tensors = adapter(base)
    trained = {"unet": torch.full_like(answer(base, tensors)["unet"], torch.nan)}
    assert len(certified(base, tensors, trained).faults()) == 3


def test_a_certificate_is_written_without_touching_a_tensor(tmp_path):
    path = tmp_path / "zwx.safetensors"
    save_file({"b": torch.randn(3), "a": torch.randn(2, 2)}, path, {"ss_steps": "3"})
    before, body = load_file(path), path.read_bytes()[-28:]
    write_certificate(path, {"a1111": {"used": 2, "total": 2, "error": 0.0}})
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    assert metadata.pop("ss_steps") == "3"
    assert json.loads(metadata[METADATA_KEY]) == {"a1111": {"used": 2, "total": 2, "error": 0.0}}
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(path).items())
    assert hashlib.sha256(path.read_bytes()[-28:]).digest() == hashlib.sha256(body).digest()


@pytest.mark.parametrize(
    ("change", "is_chosen", "fault"),
    [
        ({}, False, ""),
        ({"refused": "no"}, False, "refused: no"),
        ({"skipped": {"a": "why"}}, False, "1 skipped: a (why)"),
        ({"is_wrong": True}, False, "another effect than trained"),
        ({"unsupported": "never"}, False, ""),
        ({"unsupported": "never"}, True, "not supported: never"),
        ({"unknown": {"a": "why"}, "is_wrong": True}, False, ""),
        ({"unknown": {"a": "why"}}, True, "in part: a (why)"),
    ],
)
def test_what_is_a_fault(change, is_chosen, fault):
    assert Row(**GOOD | change).fault(is_chosen=is_chosen) == fault


def test_the_table_says_it_in_words():
    rows = (Row(**GOOD), Row(**GOOD | {"consumer": "diffusers", "unsupported": "it has none", "error": None}))
    assert Certificate(rows=rows, effect=0.123).render().splitlines() == [
        "read back as other programs do: zwx.safetensors, which changes the model's answer by 12 %",
        "  A1111               3 of 3 keys           error 0.10 %   good",
        "  diffusers                                                not supported: it has none",
    ]


def test_asking_leaves_loaded_what_was_loaded(tmp_path):
    model = open_tiny(tmp_path / "tiny.safetensors", "sd1", parts=("unet",))
    assert ask_loaded(model, PROBE)["unet"].shape == (2, 4, 8, 16)
    assert [model.is_loaded(part) for part in ("unet", "vae", "text_encoder")] == [True, False, False]
