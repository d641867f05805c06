from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_loading_a_model_class_imports_no_quantizer_and_says_nothing():
    code = (
        "import sys; from sdtune.models import libraries; libraries.unet_class(); libraries.text_classes();"
        "print(bool(sys.modules.get('bitsandbytes')), 'bitsandbytes' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False False\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("first", ["diffusers", "sdtune.models.libraries as libraries; libraries.scheduler_classes()"])
def test_model_classes_load_whatever_was_imported_before(first):
    code = f"import {first}; from sdtune.models import libraries; libraries.unet_class(); libraries.text_classes()"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_the_families_are_known_without_torch():
    code = "import sys, sdtune.models.builtin, sdtune.models.open, sdtune.cli.models; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
