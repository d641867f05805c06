import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

import sdtune_textual_inversion
from sdtune_textual_inversion.config import TextualInversionOptions, TokenOptions

OPTIONS = (TextualInversionOptions, TokenOptions)


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_is_described(options):
    assert all(field.description for field in options.model_fields.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token": "a/b"}, "must be letters"),
        ({"token": "a,b"}, "must be letters"),
        ({"token": ""}, "must be letters"),
        ({"token": " a"}, "must be letters"),
        ({"token": "a."}, "must be letters"),
        ({"vectors": 0}, "greater than or equal to 1"),
        ({"vectors": 76}, "less than or equal to 75"),
        ({"token": "a", "tokens": [{"name": "b"}]}, "either token or tokens"),
        ({"tokens": [{"name": "a"}, {"name": "A"}]}, "different names"),
        ({"tokens": [{"name": "a", "init_text": "b", "init_file": "c.pt"}]}, "either init_text or init_file"),
        ({"tokens": [{}]}, "Field required"),
        ({"formats": []}, "at least one"),
        ({"formats": ["pt", "pt"]}, "each once"),
        ({"formats": ["bin"]}, "'pt', 'safetensors' or 'png'"),
        ({"max_norm": 0}, "greater than 0"),
        ({"lr": "0.1:5,0.2:3"}, "rising steps"),
        ({"vector": 4}, "not permitted"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        TextualInversionOptions(**options)


@pytest.mark.parametrize("name", ["zwx", "my-style_v1.2", "red cat", "小猫", "9lives"])
def test_names_that_webui_keeps_are_taken(name):
    assert TextualInversionOptions(token=name).resolved[0].name == name


def test_the_short_form_is_one_token_with_the_common_options():
    (token,) = TextualInversionOptions(token="dog", vectors=7, init_text="red", lr="0.1:5").resolved
    assert token == TokenOptions(name="dog", vectors=7, init_text="red", lr="0.1:5")


def test_a_token_has_its_own_options_before_the_common_ones():
    own = {"name": "b", "vectors": 2, "init_text": "", "lr": 1e-3}
    options = TextualInversionOptions(vectors=5, init_text="x", tokens=[{"name": "a"}, own])
    first, second = options.resolved
    assert (first.vectors, first.init_text, first.lr) == (5, "x", 5e-3)
    assert (second.vectors, second.init_text, second.lr) == (2, "", 1e-3)


def test_an_initial_file_decides_the_number_of_vectors():
    (token,) = TextualInversionOptions(vectors=5, tokens=[{"name": "a", "init_file": "b.pt"}]).resolved
    assert token.vectors is None
    assert token.init_text is None


def test_the_plugin_declares_its_method():
    (spec,) = sdtune_textual_inversion.sdtune_methods()
    assert (spec.name, spec.aliases) == ("textual_inversion", ("ti",))
    assert spec.config is TextualInversionOptions
    assert set(spec.flags) <= TextualInversionOptions.model_fields.keys()


@pytest.mark.slow
def test_declaring_imports_no_torch():
    code = (
        "import sys, sdtune_textual_inversion as plugin; plugin.sdtune_methods(); plugin.sdtune_commands();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_readme_tells_every_option_and_no_other():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    tables = [re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", part, re.MULTILINE) for part in readme.split("## A token")]
    told = [set(re.findall(r"\w+", " ".join(table))) for table in tables]
    assert told == [set(options.model_fields) for options in OPTIONS]
