"""The demonstration teaches its subject, says so in numbers, and delivers the file."""

import pytest
from PIL import Image

import sdtune_lora
from sdtune.demo.show import show
from sdtune.errors import ConfigError
from sdtune.plugins import Registry
from sdtune.train.launch import Screen


def run(folder, *, overwrite=False):
    return show(Registry.from_plugins([sdtune_lora]), Screen(), folder, overwrite=overwrite)


@pytest.mark.slow
@pytest.mark.long
def test_the_subject_is_learned_and_delivered(tmp_path):
    shown = run(tmp_path / "demo")
    assert shown.after > 0.55
    assert shown.after - shown.before > 0.3
    assert (tmp_path / "demo" / "webui" / "models" / "Lora" / "zwx-toy.safetensors").is_file()
    with Image.open(shown.grid) as grid:
        assert grid.width > 400
    with pytest.raises(ConfigError, match="--overwrite"):
        run(tmp_path / "demo")


def test_a_folder_that_is_no_demo_is_never_cleared(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="more than a demo"):
        run(tmp_path, overwrite=True)
    assert (tmp_path / "letter.txt").exists()
