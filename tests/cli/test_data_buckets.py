"""`sdtune data buckets` as a user meets it."""

import json

import pytest
from PIL import Image

import sdtune_lora
from sdtune.testing.images import write_images
from sdtune.testing.runner import command


@pytest.fixture
def images(tmp_path):
    write_images(tmp_path / "2_dog", 3, sizes=[(96, 96), (120, 80), (300, 60)])
    return tmp_path / "2_dog"


@pytest.fixture
def show(images, capsys):
    def call(*words):
        code = command([sdtune_lora], "data", "buckets", "--data", str(images), *words)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def test_every_image_is_in_the_table(show):
    code, out, _ = show("--resolution", "64", "--batch-size", "4")
    assert code == 0
    assert out.startswith("3 images at 64 in 3 buckets, batches of 4, crop center: ")
    assert [line.split()[:3] for line in out.splitlines() if line.startswith("0")] == [
        ["00.png", "96x96", "64x64"],
        ["01.png", "120x80", "80x48"],
        ["02.png", "300x60", "128x32"],
    ]
    assert "note: 3 buckets with fewer visits an epoch than a batch holds" in out


def test_without_a_resolution_it_is_512(show):
    assert show()[1].startswith("3 images at 512 ")


def test_a_model_that_is_named_gives_its_own_resolution(show):
    assert show("--model", "demo")[1].startswith("3 images at 64 ")


def test_the_demo_data_is_shown_at_the_size_of_the_demo_model(capsys):
    assert command([sdtune_lora], "data", "buckets", "--data", "demo") == 0
    assert capsys.readouterr().out.startswith("5 images at 64 in 1 bucket,")


def test_json_is_one_document(show):
    code, out, _ = show("--json", "--resolution", "64", "data.crop=focal")
    document = json.loads(out)
    assert code == 0
    assert [image["bucket"] for image in document["images"]] == [[64, 64], [80, 48], [128, 32]]
    assert {image["crop_kind"] for image in document["images"]} == {"focal"}


def test_the_picture_is_written_and_not_overwritten_unasked(show, tmp_path):
    picture = tmp_path / "sheet.png"
    assert show("--picture", str(picture))[0] == 0
    with Image.open(picture) as sheet:
        assert sheet.width > 3 * 168
    code, _, err = show("--picture", str(picture))
    assert (code, err.count("error:")) == (2, 1)
    assert "--overwrite" in err
    assert show("--picture", str(picture), "--overwrite")[0] == 0


def test_a_picture_of_another_kind_is_refused(show, tmp_path):
    code, _, err = show("--picture", str(tmp_path / "sheet.txt"))
    assert code == 2
    assert "does not end with .png" in err


def test_more_groups_than_images_is_one_line(show):
    code, _, err = show("data.buckets.rule=ratios", "data.buckets.num_bucket=5")
    assert code == 2
    assert "error: data.buckets.num_bucket=5 is more than the number of images, 3; set it to 3 or less" in err


def test_focal_crops_are_kept_in_the_cache_folder_that_was_named(show, tmp_path):
    show("data.crop=focal", "data.buckets.enabled=false", f"data.cache.dir={tmp_path / 'cache'}")
    assert len((tmp_path / "cache" / "focus.jsonl").read_text().splitlines()) == 2
