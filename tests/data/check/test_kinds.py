"""Each kind of defect: found where it is, and nowhere else."""

import random

import pytest
from seeded import DEFECTS, draw_photo, look_at, make_set, places

from sdtune.data.check.kinds import KINDS


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{number:02d}.png" for number in range(10)]
    for number, path in enumerate(paths):
        draw_photo(number).save(path)
    return paths


@pytest.fixture
def data(photos, tmp_path):
    return make_set(tmp_path / "data", photos)


def test_good_images_have_no_defect(data):
    assert look_at(data).summary() == "nothing found"


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_defect_is_found_at_its_place(kind, data):
    data.draws = random.Random(kind)
    place = DEFECTS[kind](data)
    allowed = {place} if isinstance(place, str) else set(place)
    assert places(look_at(data), kind) & allowed


def move_four(data, name, caption):
    """Put four images into a folder of their own, with one caption for all."""
    folder = data.root / name
    folder.mkdir()
    for image in data.free[:4]:
        image.with_suffix(".txt").write_text(caption)
        for path in (image, image.with_suffix(".txt")):
            path.rename(folder / path.name)


def test_each_folder_has_its_own_trigger_word(data):
    move_four(data, "10_sks cat", "sks cat, brick wall, soft light")
    assert look_at(data).findings == ()


def test_every_kind_is_tried():
    assert {kind.name for kind in KINDS} == set(DEFECTS)


def test_a_sentence_in_front_is_no_trigger_word(data):
    move_four(data, "5_cat", "a photo of a cat, brick wall, soft light")
    found = {finding.kind.name for finding in look_at(data).findings}
    assert not found & {"trigger-missing", "trigger-splits", "trigger-common"}


def test_class_images_that_are_left_out_are_not_too_few(data):
    (data.root / "reg").mkdir()
    data.free[0].rename(data.root / "reg" / data.free[0].name)
    assert {finding.kind.name for finding in look_at(data).findings} >= {"reg-inside"}
    assert "few-reg" not in {finding.kind.name for finding in look_at(data).findings}


def test_a_file_that_is_trained_at_two_sizes_is_no_duplicate(data):
    twice = f"data.subsets=[{{path: {data.root}, resolution: 512}}, {{path: {data.root}, resolution: 768}}]"
    found = look_at(data, "data.path=null", twice)
    assert "exact-duplicate" not in {finding.kind.name for finding in found.findings}
