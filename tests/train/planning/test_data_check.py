"""The doctor's word in a run's plan."""

import pytest
from PIL import ImageFilter
from seeded import draw_photo

import sdtune_lora
from sdtune.config.compose import load
from sdtune.data.check import memory
from sdtune.plugins import Registry
from sdtune.testing.images import write_images
from sdtune.train.assembly.assembling import assemble
from sdtune.train.planning import data_check
from sdtune.train.planning.data_check import check_data
from sdtune.train.planning.plan import make_plan
from sdtune.train.run import run_folder


@pytest.fixture
def photos(tmp_path):
    write_images(tmp_path / "10_zwx dog", 6, caption="zwx dog, {index}")
    for number, path in enumerate(sorted((tmp_path / "10_zwx dog").glob("*.png"))):
        draw_photo(number, 64).save(path)
    draw_photo(9, 256).filter(ImageFilter.GaussianBlur(6)).save(tmp_path / "10_zwx dog" / "05.png")
    return tmp_path / "10_zwx dog"


def assembled(photos, *words):
    registry = Registry.from_plugins([sdtune_lora])
    words = ("model.path=demo", f"data.path={photos}", "train.steps=4", "log.forecast=false", *words)
    loaded = load(registry, overrides=[*words, f"data.cache.dir={photos.parent / 'cache'}"])
    return assemble(loaded, registry, run_folder(loaded.options))


def test_the_plan_tells_what_is_found(photos):
    plan = make_plan(assembled(photos))
    assert plan.facts["data check"].startswith("1 warning: 1 blurred; 3 notes; ")
    assert plan.facts["data check"].endswith(f"`sdtune data check '{photos}'` tells more")
    assert any(note.startswith(f"blurred: {photos / '05.png'}: no edge is sharp") for note in plan.notes)


def test_the_plan_is_silent_when_told_so(photos):
    assert "data check" not in make_plan(assembled(photos, "log.check=false")).facts


def test_of_many_images_some_are_looked_at(photos, monkeypatch):
    monkeypatch.setattr(data_check, "MOST_IMAGES", 3)
    run = assembled(photos, "train.batch_size=50")
    found = check_data(run)
    assert (len(found.survey.images), found.survey.images_in_all) == (3, 6)
    assert "starving-bucket" not in {finding.kind.name for finding in found.findings}
    assert make_plan(run).facts["data check"].startswith("3 of 6 images: ")


def test_pictures_of_too_many_pixels_are_not_decoded(photos, monkeypatch):
    monkeypatch.setattr(data_check, "MOST_PIXELS", 0)
    assert check_data(assembled(photos)).count("warning") == 0


def test_pictures_are_looked_at_once(photos, monkeypatch):
    run = assembled(photos)
    first = check_data(run)
    monkeypatch.setattr(data_check, "examine", None)
    assert check_data(run).findings == first.findings


def test_another_version_of_the_look_forgets(photos, monkeypatch):
    run = assembled(photos)
    check_data(run)
    monkeypatch.setattr(memory, "VERSION", 2)
    monkeypatch.setattr(data_check, "MOST_PIXELS", 0)
    assert check_data(run).count("warning") == 0


def test_held_out_images_are_compared_with_those_trained_on(photos, tmp_path):
    write_images(tmp_path / "held", 1, caption="zwx dog")
    draw_photo(1, 64).save(tmp_path / "held" / "00.png", compress_level=1)
    found = check_data(assembled(photos, f"validation.path={tmp_path / 'held'}"))
    assert [finding.place for finding in found.findings if finding.kind.name == "leak"] == [
        str(tmp_path / "held" / "00.png")
    ]
