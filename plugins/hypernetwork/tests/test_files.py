from collections import OrderedDict

import pytest
import torch
from torch import nn

from sdtune.api import ConfigError, ModelError, write_artifact
from sdtune.testing.webui import load_like_webui
from sdtune_hypernetwork.files import Facts, explain_comfyui, make_artifact, read_hypernetwork, strip_dropout
from sdtune_hypernetwork.network import Form, Hypernetwork

FORMS = {
    "linear": Form(),
    "relu": Form(activation="relu"),
    "deep": Form(structure=(1, 1.5, 2, 1), activation="swish", dropout=(0,) * 4),
    "norm": Form(layer_norm=True),
    "mish, norm, active output": Form(activation="mish", layer_norm=True, activate_output=True),
    "dropout": Form(activation="elu", dropout=(0, 0.3, 0), layer_norm=True, activate_output=True),
    "flat": Form(structure=(1, 1), dropout=(0, 0)),
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def make(form, sizes=(6, 4)):
    torch.manual_seed(0)
    hypernetwork = Hypernetwork(sizes, form)
    for parameter in hypernetwork.parameters():
        nn.init.normal_(parameter, std=0.3)
    return hypernetwork


def written(folder, hypernetwork, facts=None, *, keep_dropout=False):
    artifact = make_artifact(hypernetwork, facts or Facts(name="a"), stem="a", keep_dropout=keep_dropout)
    return write_artifact(artifact, None, folder, dtype="fp16")


def assert_same(networks, hypernetwork, x):
    for side, network in zip("kv", networks[6], strict=True):
        assert torch.equal(network(x), hypernetwork.eval().network(6, side)(x))


@every_form
def test_reading_is_the_inverse_of_writing(form, tmp_path):
    facts = Facts(name="a", step=7, init="XavierNormal", base_name="sd", base_hash="0123456789", info="by me")
    hypernetwork = make(form)
    found, told = read_hypernetwork(written(tmp_path, hypernetwork, facts, keep_dropout=True))
    assert (found.form, found.sizes, told) == (form, (6, 4), facts)
    expected = hypernetwork.state_dict()
    assert found.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())


@pytest.mark.parametrize("keep_dropout", [False, True])
@every_form
def test_webui_computes_the_same(form, keep_dropout, tmp_path, webui_networks):
    hypernetwork = make(form)
    content = load_like_webui(written(tmp_path, hypernetwork, keep_dropout=keep_dropout))
    assert_same(webui_networks(content), hypernetwork, torch.randn(2, 3, 6))


@every_form
def test_comfyui_computes_the_same(form, tmp_path, comfyui_networks):
    hypernetwork = make(form)
    content = load_like_webui(written(tmp_path, hypernetwork))
    assert explain_comfyui(form.without_dropout) == ""
    assert_same(comfyui_networks(content), hypernetwork, torch.randn(2, 3, 6))


def test_where_comfyui_differs_it_is_told(tmp_path, comfyui_networks):
    hypernetwork = make(Form(activation="relu", layer_norm=True))
    content = load_like_webui(written(tmp_path, hypernetwork))
    x = torch.randn(2, 3, 6)
    assert not torch.allclose(comfyui_networks(content)[6][0](x), hypernetwork.network(6, "k")(x))
    assert "also activates the output" in explain_comfyui(hypernetwork.form)
    assert "no activation 'gelu'" in explain_comfyui(Form(activation="gelu"))
    assert "leaves dropout on" in explain_comfyui(Form(dropout=(0, 0.1, 0)))


def test_every_field_is_written_in_the_types_webui_reads(tmp_path):
    form = Form(activation="relu", dropout=(0, 0.3, 0))
    content = load_like_webui(written(tmp_path, make(form), Facts(name="a", base_hash="f" * 64), keep_dropout=True))
    assert list(content)[:2] == [6, 4]
    states = content.pop(6), content.pop(4)
    assert all(isinstance(pair, tuple) and len(pair) == 2 for pair in states)
    assert all(isinstance(state, OrderedDict) for pair in states for state in pair)
    assert list(states[0][0]) == ["linear.0.weight", "linear.0.bias", "linear.3.weight", "linear.3.bias"]
    assert {tensor.dtype for pair in states for state in pair for tensor in state.values()} == {torch.float32}
    assert content == {
        "step": 0,
        "name": "a",
        "layer_structure": [1, 2, 1],
        "activation_func": "relu",
        "is_layer_norm": False,
        "weight_initialization": "Normal",
        "sd_checkpoint": "f" * 10,
        "sd_checkpoint_name": None,
        "activate_output": False,
        "use_dropout": True,
        "dropout_structure": [0, 0.3, 0],
        "last_layer_dropout": True,
        "optional_info": None,
    }


def test_without_dropout_layers_are_counted_anew(tmp_path):
    content = load_like_webui(written(tmp_path, make(Form(activation="relu", dropout=(0, 0.3, 0)))))
    assert list(content[6][0]) == ["linear.0.weight", "linear.0.bias", "linear.2.weight", "linear.2.bias"]
    told = (content["use_dropout"], content["dropout_structure"], content["last_layer_dropout"])
    assert told == (False, [0, 0, 0], False)


def test_stripping_dropout_changes_no_answer():
    hypernetwork = make(FORMS["dropout"])
    stripped, x = strip_dropout(hypernetwork), torch.randn(2, 3, 6)
    assert not any(isinstance(module, nn.Dropout) for module in stripped.modules())
    assert not any(parameter.requires_grad for parameter in stripped.parameters())
    assert torch.equal(stripped.network(4, "v")(x[..., :4]), hypernetwork.eval().network(4, "v")(x[..., :4]))


@pytest.mark.parametrize("legacy_pickle", [True, False])
def test_the_first_files_are_read(legacy_pickle, tmp_path):
    hypernetwork = make(Form(), sizes=(6,))
    names = {"linear.0": "linear1", "linear.1": "linear2"}
    pair = tuple(
        {f"{names[name[:8]]}{name[8:]}": tensor for name, tensor in hypernetwork.network(6, side).state_dict().items()}
        for side in "kv"
    )
    torch.save({6: pair}, tmp_path / "old.pt", _use_new_zipfile_serialization=not legacy_pickle)
    found, facts = read_hypernetwork(tmp_path / "old.pt")
    assert found.form == Form(activate_output=True)
    assert facts == Facts(name="old")
    assert torch.equal(found.network(6, "k").linear[0].weight, hypernetwork.network(6, "k").linear[0].weight)


@pytest.mark.parametrize(("last", "expected"), [(False, (0, 0.3, 0, 0)), (True, (0, 0.3, 0.3, 0))])
def test_dropout_of_files_that_do_not_tell_it_by_layer(last, expected, tmp_path):
    form = Form(structure=(1, 2, 2, 1), dropout=expected)
    artifact = make_artifact(make(form), Facts(name="a"), stem="a", keep_dropout=True)
    content = {key: value for key, value in artifact.content.items() if key != "dropout_structure"}
    content |= {"use_dropout": True, "last_layer_dropout": last}
    torch.save(content, tmp_path / "a.pt")
    assert read_hypernetwork(tmp_path / "a.pt")[0].form == form


def test_half_precision_is_read_as_float32(tmp_path):
    hypernetwork = make(Form())
    pairs = {
        size: tuple(
            {name: tensor.half() for name, tensor in hypernetwork.network(size, side).state_dict().items()}
            for side in "kv"
        )
        for size in (6, 4)
    }
    torch.save(pairs, tmp_path / "a.pt")
    found, _ = read_hypernetwork(tmp_path / "a.pt")
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_structure": [1, 3, 1]}, "not a readable hypernetwork: Error.* loading state_dict"),
        ({"layer_structure": [1, 1, 1, 1]}, "dropout_structure is not as long"),
        ({"activation_func": "glu"}, "its activation is 'glu'"),
        ({6: "x"}, "not a readable hypernetwork"),
    ],
)
def test_what_does_not_fit_is_told(change, message, tmp_path):
    artifact = make_artifact(make(Form()), Facts(name="a"), stem="a")
    torch.save({**artifact.content, **change}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=message):
        read_hypernetwork(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [{"step": 1}, [1, 2]])
def test_other_files_are_told(content, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="not a hypernetwork"):
        read_hypernetwork(tmp_path / "a.pt")


def test_broken_and_missing_files_are_told(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"not a readable .pt file"):
        read_hypernetwork(tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="no file"):
        read_hypernetwork(tmp_path / "b.pt")
