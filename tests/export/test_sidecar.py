import json

import pytest

from sdtune.export.sidecar import encode_user_metadata, newest_picture

METADATA = {"ss_steps": "200", "ss_sd_model_name": "base", "sdtune_version": "1", "modelspec.description": "a corgi"}


@pytest.mark.parametrize(("family", "version"), [("sd1", "SD1"), ("sd2", "SD2"), ("sdxl", "SDXL"), ("x", "Unknown")])
def test_card_has_every_field_webuis_read(family, version):
    card = json.loads(encode_user_metadata(METADATA, family=family, trigger="zwx 犬"))
    assert card == {
        "description": "a corgi",
        "sd version": version,
        "activation text": "zwx 犬",
        "preferred weight": 1.0,
        "negative text": "",
        "notes": "sdtune 1: 200 steps on base",
    }


def test_no_folder_has_no_picture(tmp_path):
    assert newest_picture(tmp_path / "none") is None


def test_the_card_shows_the_first_prompt_at_the_last_step(tmp_path):
    for name in ("step-00000300-01.png", "step-00000300-00.png", "step-00000000-00.png", "grid.png"):
        (tmp_path / name).write_bytes(b"x")
    assert newest_picture(tmp_path) == tmp_path / "step-00000300-00.png"
