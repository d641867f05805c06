"""The table of the README, held against the programs' own readers."""

import re
from pathlib import Path

import pytest

import sdtune_lycoris
from sdtune.config.compose import load
from sdtune.plugins import Registry
from sdtune.testing.images import write_images
from sdtune.train.assembly.assembling import assemble
from sdtune.train.planning.lookahead import look_ahead
from sdtune.train.saving.folder import RunFolder

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PROGRAMS = {"A1111": "a1111", "Forge": "forge", "ComfyUI": "comfyui", "sd-scripts": "kohya", "diffusers": "diffusers"}
FORMS = {
    "locon": ("algo=locon",),
    "locon, tucker": ("algo=locon", "conv_rank=4", "tucker=true"),
    "weight_decompose": ("algo=locon", "weight_decompose=true"),
    "loha": ("algo=loha",),
    "lokr": ("algo=lokr",),
    "diff": ("algo=full",),
    "norms": ("norms=true",),
    "glora": ("algo=glora",),
    "ia3": ("algo=ia3", "save_as=native"),
    "diag-oft": ("algo=diag-oft",),
    "diag-oft, rescaled": ("algo=diag-oft", "rescaled=true", "save_as=native"),
    "boft": ("algo=boft",),
}
TOLD = {
    form: dict(zip(PROGRAMS.values(), re.findall(r"yes|no", cells), strict=True))
    for form, cells in re.findall(r"^\| ([\w, -]+?) \|((?: (?:yes|no) \|){5})$", README, re.MULTILINE)
}


def test_the_readme_tells_of_every_form():
    assert TOLD.keys() == FORMS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_readme_tells_what_each_program_reads(form, model, model_path, tmp_path):
    registry, images = Registry.from_plugins([sdtune_lycoris]), write_images(tmp_path / "images", 1)[0].parent
    words = (f"model.path={model_path}", f"data.path={images}", "data.resolution=64", "train.steps=1")
    options = (*words, "method=lycoris", *(f"lycoris.{option}" for option in FORMS[form]))
    run = assemble(load(registry, overrides=options), registry, RunFolder(tmp_path / "run"))
    rows = look_ahead(run, registry).certificate.rows
    found = {row.consumer: "no" if row.fault(is_chosen=True) else "yes" for row in rows}
    assert found == {name: TOLD[form][name] for name in found}
