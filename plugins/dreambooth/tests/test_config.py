import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

import sdtune_dreambooth
from sdtune_dreambooth.config import DreamBoothOptions


def test_every_option_is_described():
    assert all(field.description for field in DreamBoothOptions.model_fields.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unet_lr": 0}, "must train something"),
        ({"unet_lr": 0, "text_encoder": True, "text_encoder_lr": 0}, "must train something"),
        ({"text_encoder_stop": "75%"}, "must come with text_encoder=true"),
        ({"text_encoder": True, "text_encoder_stop": "175%"}, "must be a number of steps"),
        ({"unet_lr": -1}, "greater than or equal to 0"),
        ({"lr": 1e-6}, "not permitted"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        DreamBoothOptions(**options)


def test_the_plugin_declares_its_method():
    (spec,) = sdtune_dreambooth.sdtune_methods()
    assert spec.name == "dreambooth"
    assert spec.config is DreamBoothOptions
    assert set(spec.flags) <= DreamBoothOptions.model_fields.keys()


@pytest.mark.slow
def test_declaring_imports_no_torch():
    code = "import sys, sdtune_dreambooth as d; d.sdtune_methods(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_readme_tells_every_option_and_no_other():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", readme, re.MULTILINE)
    assert set(re.findall(r"\w+", " ".join(told))) == DreamBoothOptions.model_fields.keys()
