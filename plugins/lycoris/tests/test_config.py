import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

import sdtune_lycoris
from sdtune_lycoris.config import USES, DyloraOptions, LycorisOptions

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("options", [LycorisOptions, DyloraOptions])
def test_every_option_is_described(options):
    assert all(field.description for field in options.model_fields.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unet": False, "text_encoder_lr": 0}, "nothing to train"),
        ({"unet": False, "preset": "unet-only"}, "nothing to train"),
        ({"conv_alpha": 1}, "no effect without conv_rank"),
        ({"algo": "loha", "factor": 4}, "factor must not be set with algo loha: it has no effect"),
        ({"algo": "ia3", "rank": 4}, "rank must not be set with algo ia3: it has no effect"),
        ({"algo": "glora", "weight_decompose": True}, "weight_decompose must not be set with algo glora"),
        ({"algo": "boft", "alpha": 1}, "alpha must not be set with algo boft"),
        ({"rescaled": True}, "rescaled must not be set with algo locon"),
        ({"algo": "lokr", "full_matrix": True, "decompose_both": True}, "must not be set together"),
        ({"algo": "lokr", "full_matrix": True, "tucker": True}, "tucker must not be set with full_matrix"),
        ({"algo": "full", "save_as": "diff"}, "it is diff already"),
        ({"norms": True, "unet": False}, "only its norms are"),
        ({"constraint": 0, "algo": "boft"}, "greater than 0"),
        ({"rank_dropout": 1}, "less than 1"),
        ({"targets": [{"match": "*", "exclude": True, "rank": 4}]}, "takes no algo, rank"),
        ({"targets": [{"match": "*", "factor": 4}]}, r"factor must not be set in the rule '\*' with algo locon"),
        ({"targets": [{"match": "*", "algo": "full", "rank": 4}]}, "rank must not be set in the rule"),
        ({"algo": "lora"}, "Input should be"),
        ({"rnak": 4}, "not permitted"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        LycorisOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": 3}, "unit must divide rank: 3 does not divide 16"),
        ({"targets": [{"match": "*"}]}, "must exclude"),
    ],
)
def test_what_makes_no_sense_is_refused_by_dylora(options, message):
    with pytest.raises(ValidationError, match=message):
        DyloraOptions(**options)


def test_an_option_of_a_rules_algorithm_is_taken():
    options = LycorisOptions(algo="loha", factor=4, targets=[{"match": "*", "algo": "lokr"}])
    assert options.algos == ("loha", "lokr")


def test_every_algorithm_says_what_it_uses():
    fields = LycorisOptions.model_fields
    assert USES.keys() == set(fields["algo"].annotation.__args__)
    assert frozenset().union(*USES.values()) <= fields.keys()


def test_the_plugin_declares_its_methods():
    specs = {spec.name: spec for spec in sdtune_lycoris.sdtune_methods()}
    assert {name: spec.config for name, spec in specs.items()} == {"lycoris": LycorisOptions, "dylora": DyloraOptions}
    assert all(set(spec.flags) <= spec.config.model_fields.keys() for spec in specs.values())


@pytest.mark.slow
def test_declaring_imports_no_torch():
    code = "import sys, sdtune_lycoris as p; p.sdtune_methods(); p.sdtune_commands(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("title", "options"), [("## Options of lycoris", LycorisOptions), ("## Options of dylora", DyloraOptions)]
)
def test_the_readme_tells_every_option_and_no_other(title, options):
    section = README.partition(title)[2].partition("\n## ")[0]
    told = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section, re.MULTILINE)
    assert set(re.findall(r"\w+", " ".join(told))) == options.model_fields.keys()
