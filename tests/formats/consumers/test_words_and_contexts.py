"""Embeddings and hypernetworks: forms that work everywhere, and the faults of single programs."""

from collections import OrderedDict

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sdtune.export.certificate import certify
from sdtune.export.pickled import encode_pickled
from sdtune.export.probe import Probe
from sdtune.formats.card import encode_card
from sdtune.formats.consumers.applying import view_of
from sdtune.formats.consumers.embeddings import widths
from sdtune.formats.consumers.reading import open_file
from sdtune.formats.consumers.table import CONSUMERS
from sdtune.formats.embedding import Embedding

PROBE = Probe(captions=("a photo of zwx", "a red circle"))
VECTORS = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
CARD = {"string_to_token": {"*": 265}, "string_to_param": {"*": VECTORS}, "name": "zwx", "step": 3}
FIELDS = {
    "step": 1,
    "name": "zwx",
    "layer_structure": [1, 2, 1],
    "activation_func": "relu",
    "is_layer_norm": False,
    "activate_output": False,
    "use_dropout": False,
    "dropout_structure": [0, 0, 0],
    "last_layer_dropout": False,
}


@pytest.fixture
def found(tmp_path, open_base):
    """Certify a file; give program to fault."""

    def found(content, kind, *, family="sd1", chosen=(), suffix=".pt"):
        path = tmp_path / f"zwx{suffix}"
        if suffix == ".pt":
            path.write_bytes(encode_pickled(content))
        else:
            save_file(content, path)
        made = certify([open_file(path, kind)], open_base(family), PROBE, trained=None, chosen=chosen)
        return {row.consumer: text for row, text in made.faults()}

    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "suffix"),
    [(CARD, ".pt"), ({"emb_params": VECTORS}, ".safetensors"), ({"zwx": VECTORS}, ".safetensors")],
)
def test_every_program_reads_one_tensor(content, suffix, found):
    assert found(content, "embedding", suffix=suffix) == {}


@pytest.mark.slow
def test_every_program_reads_one_tensor_for_each_text_encoder(found, open_base):
    wanted = widths(view_of(open_base("sdxl")))
    content = {encoder: torch.randn(2, width) for encoder, width in wanted.items()}
    assert content.keys() == {"clip_l", "clip_g"}
    assert found(content, "embedding", family="sdxl", suffix=".safetensors") == {}


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_both_webuis_read_a_picture_and_no_other_program_does(family, tmp_path, open_base):
    base = open_base(family)
    vectors = {encoder: torch.randn(2, width) for encoder, width in widths(view_of(base)).items()}
    (tmp_path / "zwx.png").write_bytes(encode_card(Embedding(name="zwx", vectors=vectors)))
    made = certify([open_file(tmp_path / "zwx.png", "embedding")], base, PROBE, trained=None)
    assert made.faults() == []
    assert {row.consumer for row in made.rows if not row.unsupported} == {"a1111", "forge"}
    assert all(row.weights.error == 0 for row in made.rows if not row.unsupported)


@pytest.mark.parametrize("program", ["a1111", "forge"])
def test_a_picture_without_an_embedding_is_refused(program, tmp_path, open_base):
    Image.new("RGB", (8, 8)).save(tmp_path / "zwx.png")
    base = open_base("sd1")
    reading = CONSUMERS[program](open_file(tmp_path / "zwx.png", "embedding"), view_of(base), base)
    assert "no embedding in the picture" in reading.refused


def test_two_tensors_are_too_many(found):
    wrong = found({"one": VECTORS, "two": VECTORS + 1}, "embedding", suffix=".safetensors")
    assert "refused" in wrong["a1111"]
    assert "only the first" in wrong["comfyui"]
    assert "refused" in wrong["diffusers"]


def test_vectors_of_another_width_are_refused_by_all(found):
    content = CARD | {"string_to_param": {"*": torch.zeros(2, 48)}}
    assert found(content, "embedding").keys() == {"a1111", "forge", "comfyui", "kohya", "diffusers"}


def test_todays_members_of_an_archive_are_refused_by_a1111(tmp_path, open_base):
    torch.save(CARD, tmp_path / "zwx.pt")
    made = certify([open_file(tmp_path / "zwx.pt", "embedding")], open_base("sd1"), PROBE, trained=None)
    assert {row.consumer for row, _ in made.faults()} == {"a1111"}
    assert ".format_version" in made.rows[0].refused or ".storage_alignment" in made.rows[0].refused


def states(*indices, norms=()):
    generator = torch.Generator().manual_seed(0)
    shapes = dict(zip(indices, [(128, 64), (64, 128)], strict=True))
    state = OrderedDict()
    for index in sorted([*indices, *norms]):
        shape = shapes.get(index, (128,) if index == min(norms, default=-1) else (64,))
        state[f"linear.{index}.weight"] = torch.randn(shape, generator=generator) * 0.1
        state[f"linear.{index}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    return state, OrderedDict((name, tensor * 2) for name, tensor in state.items())


def test_both_webuis_read_a_hypernetwork(found):
    assert found({64: states(0, 2), **FIELDS}, "hypernetwork") == {}


def test_a_norm_before_an_activation_is_another_network_in_comfyui(found):
    content = {64: states(0, 3, norms=(2, 4)), **FIELDS, "is_layer_norm": True}
    assert found(content, "hypernetwork") == {}
    assert "wrong by nature: behind a last" in found(content, "hypernetwork", chosen=("comfyui",))["comfyui"]


def test_an_activation_comfyui_has_not_is_a_fault_only_where_it_was_chosen(found):
    content = {64: states(0, 2), **FIELDS, "activation_func": "gelu"}
    assert found(content, "hypernetwork") == {}
    wrong = found(content, "hypernetwork", chosen=("comfyui",))
    assert wrong == {"comfyui": "not supported: it has no activation 'gelu'"}


def test_dropout_left_in_is_random_in_comfyui(found):
    content = {64: states(0, 3), **FIELDS, "use_dropout": True, "dropout_structure": [0, 0.3, 0]}
    assert found(content, "hypernetwork") == {}
    wrong = found(content, "hypernetwork", chosen=("comfyui",))
    assert wrong == {"comfyui": "wrong by nature: it never turns dropout off"}


def test_members_out_of_place_are_refused_by_a1111(found):
    assert "refused" in found({64: states(0, 1), **FIELDS}, "hypernetwork")["a1111"]


def test_layers_in_another_order_are_refused_by_comfyui(found):
    first, second = states(0, 2)
    wrong = found({64: (OrderedDict(reversed(first.items())), second), **FIELDS}, "hypernetwork")
    assert wrong.keys() == {"comfyui"}
    assert "refused: width 64: mat1 and mat2 shapes cannot be multiplied" in wrong["comfyui"]


def test_scripts_that_know_no_hypernetworks_are_at_fault_only_where_chosen(found):
    content = {64: states(0, 2), **FIELDS}
    assert found(content, "hypernetwork", chosen=("kohya", "diffusers", "forge")).keys() == {
        "kohya",
        "diffusers",
        "forge",
    }
