"""Masks in files: found by name, checked, and placed as the pictures are."""

import numpy as np
import pytest
import torch
from PIL import Image

from sdtune.config.data import DataOptions
from sdtune.config.subsets import SubsetOptions
from sdtune.data.batches import BatchBuilder
from sdtune.data.buckets.placing import place_images
from sdtune.data.index.building import build_index
from sdtune.data.order.plan import plan_epoch
from sdtune.data.pictures.masks import normalise_mask, scale_mask
from sdtune.errors import DataError
from sdtune.testing.images import draw_picture

WIDE = (96, 64)


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.jpg"):
        (tmp_path / "data").mkdir(exist_ok=True)
        draw_picture(WIDE).save(tmp_path / "data" / name)
    (tmp_path / "masks").mkdir()
    return tmp_path


def white_left(size=WIDE, edge=24):
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, edge, size[1]))
    return mask


def options(folder, **mask):
    return DataOptions(
        path=folder / "data", captions="empty", resolution="96x64", mask={"dir": folder / "masks", **mask}
    )


def batch(chosen):
    index = build_index(chosen)
    placements = place_images(index.images, chosen)
    builder = BatchBuilder(index, placements, chosen, 1)
    (plan,) = plan_epoch(1, 0, index.images, placements, 2)
    made = builder.build(plan, 0)
    order = sorted(range(2), key=lambda place: made.sample_ids[place])
    return None if made.mask is None else made.mask[order]


def test_a_mask_is_found_by_its_stem_and_the_rest_counts_as_a_whole(folder):
    white_left().save(folder / "masks" / "b.png")
    first, second = batch(options(folder))
    assert torch.equal(first, torch.ones(1, 8, 12))
    assert torch.equal(second[..., :3], torch.full((1, 8, 3), 4.0))
    assert not second[..., 3:].any()


def test_without_normalisation_a_mask_is_itself(folder):
    white_left().save(folder / "masks" / "a.png")
    found = batch(options(folder, normalise=False, unmasked_weight=0.25))[0]
    assert torch.equal(found[..., :3], torch.ones(1, 8, 3))
    assert torch.equal(found[..., 3:], torch.full((1, 8, 9), 0.25))


def test_the_unmasked_weight_is_kept_by_normalisation(folder):
    white_left().save(folder / "masks" / "a.png")
    found = batch(options(folder, unmasked_weight=0.25))[0]
    assert float(found.mean()) == pytest.approx(1)
    assert float(found[0, 0, -1] / found[0, 0, 0]) == pytest.approx(0.25)


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("unmasked_weight", [0.0, 0.5])
def test_a_uniform_mask_gives_one_and_no_nan(level, unmasked_weight):
    assert np.array_equal(normalise_mask(np.full((2, 3), level, np.float32), unmasked_weight), np.ones((2, 3)))


def test_scaling_is_between_the_unmasked_weight_and_one():
    values = np.array([[0, 51, 255]], np.float32)
    np.testing.assert_allclose(scale_mask(values), [[0, 0.2, 1]], rtol=1e-6)
    np.testing.assert_allclose(scale_mask(values, 0.5), [[0.5, 0.6, 1]], rtol=1e-6)
    assert np.array_equal(scale_mask(values, 1.0), np.ones((1, 3)))


def test_height_and_width_are_not_swapped(folder):
    mask = Image.new("L", WIDE, 0)
    mask.paste(255, (0, 0, 96, 16))
    mask.save(folder / "masks" / "a.png")
    found = batch(options(folder))[0, 0]
    assert found.shape == (8, 12)
    assert (bool((found[:2] > 0).all()), bool(found[2:].any())) == (True, False)


def test_a_mask_goes_before_transparency(folder):
    picture = draw_picture(WIDE)
    picture.putalpha(white_left(edge=48))
    picture.save(folder / "data" / "a.png")
    white_left().save(folder / "masks" / "a.png")
    chosen = options(folder).model_copy(update={"alpha_weight": True})
    assert batch(chosen)[0, 0, 0].count_nonzero() == 3


def test_a_folder_of_its_own_name_or_of_its_own_option_is_used(folder):
    (folder / "masks" / "data").mkdir()
    white_left().save(folder / "masks" / "data" / "a.png")
    assert build_index(options(folder)).images[0].mask.path == folder / "masks" / "data" / "a.png"
    subset = SubsetOptions(path=folder / "data", captions="empty", mask_dir=folder / "masks" / "data")
    assert build_index(DataOptions(subsets=(subset,))).images[0].mask.path.parent.name == "data"


def test_masks_between_the_images_are_no_images(tmp_path):
    for name in ("10_dog", "masks"):
        (tmp_path / name).mkdir()
    draw_picture(WIDE).save(tmp_path / "10_dog" / "a.png")
    white_left().save(tmp_path / "masks" / "a.png")
    index = build_index(DataOptions(path=tmp_path, captions="empty", mask={"dir": tmp_path / "masks"}))
    assert [image.name for image in index.images] == ["10_dog/a.png"]
    assert index.images[0].mask is not None
    assert not any("not read" in note for note in index.notes)


def test_a_changed_mask_is_another_data_set(folder):
    white_left().save(folder / "masks" / "a.png")
    first = build_index(options(folder)).digest
    white_left(edge=32).save(folder / "masks" / "a.png")
    assert build_index(options(folder)).digest != first


def test_what_has_no_mask_is_told(folder):
    white_left().save(folder / "masks" / "a.png")
    assert (
        "data: 1 mask from masks, 25% white on average; without one, counted as a whole: b.jpg"
        in build_index(options(folder)).notes
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no mask in"),
        ({"other.png": WIDE}, "no mask in"),
        ({"a.png": (64, 96)}, "has 64x96 px, its image 96x64"),
        ({"a.png": WIDE, "a.jpg": WIDE}, "several masks"),
    ],
)
def test_masks_that_do_not_fit_are_refused(folder, files, message):
    for name, size in files.items():
        Image.new("L", size, 255).save(folder / "masks" / name)
    with pytest.raises(DataError, match=message):
        build_index(options(folder))


def test_a_mask_for_two_images_is_refused(folder):
    draw_picture(WIDE).save(folder / "data" / "b.png")
    white_left().save(folder / "masks" / "b.png")
    with pytest.raises(DataError, match="fits 2 images"):
        build_index(options(folder))


def test_a_missing_folder_of_masks_is_refused(folder):
    (folder / "masks").rmdir()
    with pytest.raises(DataError, match="masks are looked for there"):
        build_index(options(folder))


def test_each_folder_weighs_the_rest_by_its_own_option(folder):
    subsets = []
    for name, weight in (("one", None), ("two", 0.5)):
        (folder / name / "masks").mkdir(parents=True)
        draw_picture(WIDE).save(folder / name / "a.png")
        white_left().save(folder / name / "masks" / "a.png")
        own = {"mask_dir": folder / name / "masks", "unmasked_weight": weight}
        subsets.append(SubsetOptions(path=folder / name, captions="empty", **own))
    first, second = batch(DataOptions(subsets=subsets, resolution="96x64", mask={"normalise": False, "dir": folder}))
    assert float(first.min()) == 0
    assert float(second.min()) == 0.5


def test_a_folder_may_be_weighed_by_transparency_alone(folder):
    picture = draw_picture(WIDE)
    picture.putalpha(white_left(edge=48))
    picture.save(folder / "data" / "a.png")
    subset = SubsetOptions(path=folder / "data", captions="empty", alpha_weight=True)
    found = batch(DataOptions(subsets=(subset,), resolution="96x64"))
    assert found[0, 0, 0].count_nonzero() == 6
    assert torch.equal(found[1], torch.ones(1, 8, 12))


@pytest.mark.parametrize(("level", "name"), [(0, "all black"), (255, "all white"), (90, "all gray")])
def test_a_mask_that_is_the_same_everywhere_is_named(folder, level, name):
    Image.new("L", WIDE, level).save(folder / "masks" / "a.png")
    white_left().save(folder / "masks" / "b.png")
    notes = build_index(options(folder)).notes
    assert f"data: 2 masks from masks, {(level / 255 + 0.25) / 2:.0%} white on average" in notes
    assert f"data: masks that are the same everywhere, they count as no mask: a.png ({name})" in notes


def test_of_many_masks_some_are_looked_at(folder, monkeypatch):
    monkeypatch.setattr("sdtune.data.index.mask_files._LOOKED_AT", 1)
    for name in ("a", "b"):
        white_left().save(folder / "masks" / f"{name}.png")
    assert "data: 2 masks from masks, 25% white on average (1 looked at)" in build_index(options(folder)).notes
