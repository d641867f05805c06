import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

import sdtune_lora
from sdtune_lora.config import LoraOptions


def test_every_option_is_described():
    assert all(field.description for field in LoraOptions.model_fields.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unet": False, "text_encoder_lr": 0}, "nothing to train"),
        ({"conv_alpha": 1}, "no effect without conv_rank"),
        ({"alpha": 0}, "greater than 0"),
        ({"rank": 0}, "greater than or equal to 1"),
        ({"dropout": 1}, "less than 1"),
        ({"targets": [{"match": "*", "exclude": True, "rank": 4}]}, "takes no rank"),
        ({"targets": [{"match": "re:("}]}, "not a regular expression"),
        ({"blocks": {"mid": {"dim": 4}}}, "not permitted"),
        ({"rnak": 4}, "not permitted"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        LoraOptions(**options)


def test_the_plugin_declares_its_method():
    (spec,) = sdtune_lora.sdtune_methods()
    assert spec.name == "lora"
    assert spec.config is LoraOptions
    assert set(spec.flags) <= LoraOptions.model_fields.keys()


@pytest.mark.slow
def test_declaring_imports_no_torch():
    code = "import sys, sdtune_lora; sdtune_lora.sdtune_methods(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_readme_tells_every_option_and_no_other():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", readme, re.MULTILINE)
    assert set(re.findall(r"\w+", " ".join(told))) == LoraOptions.model_fields.keys()
