import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from torch import nn

import sdtune_hypernetwork
from sdtune_hypernetwork.config import ACTIVATIONS, ChainOptions, HypernetworkOptions


def test_every_option_is_described():
    assert all(field.description for field in HypernetworkOptions.model_fields.values())
    assert all(field.description for field in ChainOptions.model_fields.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "2, 1"}, "must begin and end with 1"),
        ({"structure": "1, 2"}, "must begin and end with 1"),
        ({"structure": "1"}, "at least 2"),
        ({"structure": "1, x, 1"}, "valid number"),
        ({"structure": "1, 0, 1"}, "greater than 0"),
        ({"dropout": "0, 0"}, "dropout must have 3 numbers"),
        ({"dropout": "0.1, 0, 0"}, "dropout must begin and end with 0"),
        ({"dropout": "0, 0, 0.1"}, "dropout must begin and end with 0"),
        ({"dropout": "0, 1, 0"}, "less than 1"),
        ({"activation": "glu"}, "must be one of linear, relu"),
        ({"init": "normal"}, "'Normal', 'KaimingUniform'"),
        ({"sizes": "0"}, "greater than or equal to 1"),
        ({"strength": 0}, "greater than 0"),
        ({"chain": [{"strength": 1}]}, "Field required"),
        ({"rank": 4}, "not permitted"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        HypernetworkOptions(**options)


def test_lists_are_read_as_webui_writes_them():
    options = HypernetworkOptions(structure="1, 1.5, 1", dropout="0,0.1,0", sizes="768,320")
    assert (options.structure, options.dropout, options.sizes) == ((1, 1.5, 1), (0, 0.1, 0), (768, 320))


def test_options_survive_being_written():
    options = HypernetworkOptions(structure="1, 1.5, 1", chain=["a.pt", {"file": "b.pt", "strength": 0.5}])
    assert HypernetworkOptions(**options.model_dump(mode="json")) == options
    assert [(link.file.name, link.strength) for link in options.chain] == [("a.pt", 1.0), ("b.pt", 0.5)]


def test_activations_are_those_of_torch_that_need_no_arguments_but_glu():
    own = {name.lower() for name, value in vars(nn.modules.activation).items() if isinstance(value, type)}
    classes = {name for name in own if getattr(nn, _cased(name), None) is not None}
    assert set(ACTIVATIONS) == classes - {"threshold", "multiheadattention", "glu"} | {"linear", "swish"}


def _cased(name):
    return next((key for key in nn.modules.activation.__all__ if key.lower() == name), "")


def test_the_plugin_declares_its_method():
    (spec,) = sdtune_hypernetwork.sdtune_methods()
    assert (spec.name, spec.aliases) == ("hypernetwork", ("hypernet",))
    assert spec.config is HypernetworkOptions
    assert set(spec.flags) <= HypernetworkOptions.model_fields.keys()


@pytest.mark.slow
def test_declaring_imports_no_torch():
    code = (
        "import sys, sdtune_hypernetwork as plugin; plugin.sdtune_methods(); plugin.sdtune_commands();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_readme_tells_every_option_and_no_other():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", readme, re.MULTILINE)
    assert set(re.findall(r"\w+", " ".join(told))) == HypernetworkOptions.model_fields.keys()
