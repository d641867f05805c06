"""A file that acts as trained passes; one that does not is named, with the program and the reason."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sdtune.errors import ModelError
from sdtune.export.certificate import METADATA_KEY, Certificate, Row, certify, write_certificate
from sdtune.export.faults import raise_if_faulty
from sdtune.export.probe import Probe, ask, ask_loaded
from sdtune.export.weights import Trained, file_changes
from sdtune.formats.consumers.applying import applied, view_of
from sdtune.formats.consumers.definition import read
from sdtune.formats.consumers.reading import File, Reading, Use
from sdtune.models.architecture import FAMILIES
from sdtune.models.sd import StableDiffusion
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
    assert made.faults() == []
    assert (
        max(row.error for row in made.rows)
        < 0.5 * {4: 1e-2, 2: 2e-2 if dtype == torch.float16 else 5e-2}[dtype.itemsize]
    )


def test_memory_that_is_used_up_is_no_fault_of_a_file(base):
    def use_up(weight):
        raise torch.OutOfMemoryError("CUDA out of memory")

    use = Use(target="unet.conv_in.weight", keys=("key",), change=use_up)
    with pytest.raises(torch.OutOfMemoryError), applied(base, [Reading(uses=[use])]):
        ask(base, PROBE)


@pytest.mark.parametrize("factor", [0.5, 0.9, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_wrong_scale_does_not_pass(base, factor, dtype):
    tensors = adapter(base)
    wrong = {key: t * factor if key.endswith("alpha") else t.to(dtype) for key, t in tensors.items()}
    made = certified(base, wrong, answer(base, tensors))
    with pytest.raises(ModelError, match=r"A1111 does not use zwx.safetensors as trained: another effect"):
        raise_if_faulty({row.file: made.facts(row.file) for row in made.rows})


def test_an_alpha_that_was_left_out_does_not_pass(base):
    tensors = adapter(base, alpha=1.0)
    bare = {key: tensor for key, tensor in tensors.items() if not key.endswith("alpha")}
    made = certified(base, bare, answer(base, tensors))
    assert [row.consumer for row, _ in made.faults()] == ["file", "a1111", "comfyui", "kohya"]


def test_without_an_effect_there_is_nothing_to_compare(base):
    tensors = adapter(base, size=1e-5)
    made = certified(base, tensors, answer(base, tensors))
    assert made.effect is None
    assert {row.verdict for row in made.rows} == {"good, no effect to compare"}


def test_a_broken_answer_is_wrong(base):
    tensors = adapter(base)
    trained = {"unet": torch.full_like(answer(base, tensors)["unet"], torch.nan)}
    assert len(certified(base, tensors, trained).faults()) == 4


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
        ({"weakness": "why"}, True, ""),
        ({"weakness": "why", "is_wrong": True}, False, ""),
        ({"weakness": "why", "is_wrong": True}, True, "wrong by nature: why"),
        ({"weakness": "why", "is_wrong": True, "skipped": {"a": "no"}}, False, "1 skipped: a (no)"),
        ({"mistake": "taken for sd1"}, False, "taken for sd1"),
    ],
)
def test_what_is_a_fault(change, is_chosen, fault):
    assert Row(**GOOD | change).fault(is_chosen=is_chosen) == fault


def test_beside_the_table_a_file_is_named_once():
    skipping = Row(**GOOD | {"skipped": {"a": "why", "b": "why", "c": "why"}})
    rows = (skipping, Row(**GOOD | {"consumer": "comfyui", "refused": "no"}), Row(**GOOD | {"consumer": "kohya"}))
    with pytest.raises(ModelError) as caught:
        Certificate(rows=rows).raise_beside_table()
    assert [problem.message for problem in caught.value.problems] == [
        "zwx.safetensors does not work as trained in A1111, ComfyUI; see the table",
        "A1111 also skips b, c",
    ]


def test_the_table_says_it_in_words():
    rows = (Row(**GOOD), Row(**GOOD | {"consumer": "diffusers", "unsupported": "it has none", "error": None}))
    assert Certificate(rows=rows, effect=0.123).render().splitlines() == [
        "read back as other programs do: zwx.safetensors, which changes the model's answer by 12 %",
        "  A1111               3 of 3 keys           error 0.10 %                    good",
        "  diffusers                                                                 not supported: it has none",
    ]
    other = Row(**GOOD | {"consumer": "comfyui", "unknown": {"a": "it has no name for it"}})
    assert Certificate(rows=(*rows, other)).warnings() == [
        "zwx.safetensors cannot be used in diffusers; see the table",
        "zwx.safetensors works otherwise than trained in ComfyUI; see the table",
    ]


@pytest.fixture(scope="module")
def coarse(base):
    """Open the same model in bf16."""
    model = StableDiffusion(replace(base.source, dtype=torch.bfloat16), FAMILIES["sd1"])
    for part in PROBE.parts:
        model.load(part)
    return model


@pytest.mark.parametrize(("factor", "faults"), [(1.0, set()), (0.9, {"file", "a1111"})])
def test_a_scale_that_bf16_hides_in_the_answers_is_found_in_the_weights(coarse, factor, faults):
    tensors = adapter(coarse, size=0.03)
    written = {key: t * factor if key.endswith("alpha") else t for key, t in tensors.items()}
    trained, weights = (
        answer(coarse, tensors),
        Trained(changes=file_changes([read(file(tensors), view_of(coarse), coarse)])),
    )
    blind = certify([file(written)], coarse, PROBE, trained=trained, chosen=("a1111",))
    assert blind.faults() == []
    made = certify([file(written)], coarse, PROBE, trained=trained, weights=weights, chosen=("a1111",))
    assert {row.consumer for row, _ in made.faults()} == faults
    assert made.rows[-1].weights.error == pytest.approx(1 - factor, abs=1e-5)


def test_asking_leaves_loaded_what_was_loaded(tmp_path):
    model = open_tiny(tmp_path / "tiny.safetensors", "sd1", parts=("unet",))
    assert ask_loaded(model, PROBE)["unet"].shape == (2, 4, 8, 16)
    assert [model.is_loaded(part) for part in ("unet", "vae", "text_encoder")] == [True, False, False]
