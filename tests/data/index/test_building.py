import json
import os
import shutil
from pathlib import Path

import pytest

from sdtune.config.data import DataOptions
from sdtune.config.subsets import SubsetOptions
from sdtune.data.index.building import build_index, verify_pixels
from sdtune.data.pictures.images import decode
from sdtune.errors import ConfigError, DataError
from sdtune.testing.images import draw_picture, write_images

DOG6 = Path(__file__).parents[4] / "shared/data/dreambooth/dog6"


def index(path, **options):
    return build_index(DataOptions(path=path, **options))


def names(found):
    return [record.name for record in found.images]


# Shapes of a data set


def test_flat_folder_is_a_data_set(tmp_path):
    write_images(tmp_path / "dogs", 3)
    found = index(tmp_path / "dogs")
    assert names(found) == ["00.png", "01.png", "02.png"]
    assert (found.subsets[0].name, found.subsets[0].repeats, found.subsets[0].class_text) == ("dogs", 1, "")


def test_flat_folder_honours_its_own_number(tmp_path):
    write_images(tmp_path / "10_sks dog", 2)
    found = index(tmp_path / "10_sks dog")
    assert (found.subsets[0].repeats, found.subsets[0].class_text, found.visits) == (10, "sks dog", 20)


def test_parent_of_numbered_folders(tmp_path):
    write_images(tmp_path / "10_dog", 2)
    write_images(tmp_path / "2_cat", 1)
    found = index(tmp_path)
    assert [(subset.name, subset.repeats, subset.class_text) for subset in found.subsets] == [
        ("2_cat", 2, "cat"),
        ("10_dog", 10, "dog"),
    ]
    assert names(found) == ["2_cat/00.png", "10_dog/00.png", "10_dog/01.png"]
    assert found.visits == 22


def test_folder_without_a_number_is_found_and_told(tmp_path):
    write_images(tmp_path / "10_dog", 1)
    write_images(tmp_path / "more dogs", 1)
    found = index(tmp_path)
    assert len(found.images) == 2
    assert "more dogs: 1 images, repeats 1 (no number in the folder's name)" in found.notes


def test_listed_folders_have_their_own_options(tmp_path):
    write_images(tmp_path / "a/3_dog", 1)
    write_images(tmp_path / "b/3_dog", 1)
    subsets = (
        SubsetOptions(path=tmp_path / "a/3_dog", repeats=7, weight=0.5),
        SubsetOptions(path=tmp_path / "b/3_dog"),
    )
    found = build_index(DataOptions(subsets=subsets))
    assert names(found) == ["a/3_dog/00.png", "b/3_dog/00.png"]
    assert [(subset.repeats, subset.weight) for subset in found.subsets] == [(7, 0.5), (3, 1.0)]


def test_same_folder_twice_is_an_error(tmp_path):
    write_images(tmp_path / "dog", 1)
    with pytest.raises(DataError, match="2 times"):
        build_index(DataOptions(subsets=(SubsetOptions(path=tmp_path / "dog"),) * 2))


def test_no_path_is_an_error():
    with pytest.raises(ConfigError, match="--data FOLDER"):
        build_index(DataOptions())


@pytest.mark.parametrize("name", ["0_dog", "20240131_holiday"])
def test_number_that_cannot_be_meant_is_an_error(tmp_path, name):
    write_images(tmp_path / name, 1)
    with pytest.raises(DataError, match="repeats of each image"):
        index(tmp_path)


def test_numbered_folder_without_images_is_an_error(tmp_path):
    write_images(tmp_path / "10_dog", 1)
    (tmp_path / "5_cat").mkdir()
    with pytest.raises(DataError, match=r"no images in .*5_cat"):
        index(tmp_path)


def test_missing_folder_file_and_empty_folder_are_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.zip").touch()
    for name, message in (("nothing", "no folder"), ("file.zip", "is a file"), ("empty", "no images in")):
        with pytest.raises(DataError, match=message):
            index(tmp_path / name)


# Files


def test_files_are_in_natural_order_whatever_the_case_of_the_suffix(tmp_path):
    for name in ("10.JPG", "2.Png", "1.jfif"):
        draw_picture().save(tmp_path / name, format="PNG" if name.endswith("g") and "n" in name else "JPEG")
    assert names(index(tmp_path, captions="empty")) == ["1.jfif", "2.Png", "10.JPG"]


def test_what_is_ignored_is_counted_by_reason(tmp_path):
    write_images(tmp_path, 1)
    for name in (".DS_Store", "._00.jpg", "Thumbs.db", "latents.npz", "orphan.txt"):
        (tmp_path / name).write_text("x")
    write_images(tmp_path / "__MACOSX", 1)
    assert "ignored files: 1 .txt without an image, 3 hidden, 2 other" in index(tmp_path).notes


def test_all_corrupt_images_are_told_together(tmp_path):
    paths = write_images(tmp_path, 4)
    paths[0].write_bytes(b"")
    paths[2].write_text("no image")
    with pytest.raises(DataError) as caught:
        index(tmp_path)
    assert [name in str(caught.value) for name in ("00.png", "01.png", "02.png", "03.png")] == [
        True,
        False,
        True,
        False,
    ]


def test_verify_pixels_tells_every_cut_off_image(tmp_path):
    paths = write_images(tmp_path, 3)
    for path in paths[1:]:
        path.write_bytes(path.read_bytes()[:-200])
    found = index(tmp_path)
    with pytest.raises(DataError) as caught:
        verify_pixels(found.images)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(("size", "message"), [((8, 64), "too small"), ((20, 400), "too narrow")])
def test_shapes_that_cannot_be_trained_are_refused(tmp_path, size, message):
    write_images(tmp_path, 1, sizes=[size])
    with pytest.raises(DataError, match=message):
        index(tmp_path)


def test_unreadable_format_is_an_error_with_a_remedy(tmp_path):
    write_images(tmp_path, 1)
    (tmp_path / "IMG_1.JXL").write_bytes(b"x")
    with pytest.raises(DataError, match="JXL cannot be read; convert it to JPEG or PNG"):
        index(tmp_path)


def test_link_out_of_the_folder_is_refused(tmp_path):
    outside = write_images(tmp_path / "outside", 1)[0]
    write_images(tmp_path / "dogs", 1)
    (tmp_path / "dogs/link.png").symlink_to(outside)
    with pytest.raises(DataError, match="link to outside"):
        index(tmp_path / "dogs")


def test_linked_folder_is_refused(tmp_path):
    write_images(tmp_path / "outside", 1)
    write_images(tmp_path / "set/10_dog", 1)
    (tmp_path / "set/5_cat").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="is a link"):
        index(tmp_path / "set")


def test_fifo_is_refused_without_waiting(tmp_path):
    write_images(tmp_path, 1)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="not a regular file"):
        index(tmp_path)


def test_images_that_would_share_a_caption_file_are_refused(tmp_path):
    write_images(tmp_path, 1)
    draw_picture().save(tmp_path / "00.jpg")
    with pytest.raises(DataError, match=r"00.jpg and 00.png .* would share one caption file"):
        index(tmp_path)


def test_same_stem_is_no_matter_without_caption_files(tmp_path):
    write_images(tmp_path, 1, caption=None)
    draw_picture().save(tmp_path / "00.jpg")
    assert names(index(tmp_path, captions="empty")) == ["00.jpg", "00.png"]


def test_names_with_dots_keep_their_own_captions(tmp_path):
    for stem in ("a.b", "a.c"):
        draw_picture().save(tmp_path / f"{stem}.png")
        (tmp_path / f"{stem}.txt").write_text(f"caption of {stem}")
    assert [record.caption for record in index(tmp_path).images] == ["caption of a.b", "caption of a.c"]


def test_composed_and_decomposed_names_belong_together(tmp_path):
    draw_picture().save(tmp_path / "caf\u00e9.png")
    (tmp_path / "cafe\u0301.txt").write_text("a café")
    assert index(tmp_path).images[0].caption == "a café"


def test_copies_are_told(tmp_path):
    first, second = write_images(tmp_path, 2)
    shutil.copy(first, second)
    assert "the same picture: 00.png, 01.png" in index(tmp_path).notes


def test_content_of_another_format_is_told(tmp_path):
    draw_picture().save(tmp_path / "a.jpg", format="PNG")
    assert (
        "1 image with content that is not what the name says, read as what it is: a.jpg (PNG)"
        in index(tmp_path, captions="empty").notes
    )


# The digest


def test_digest_is_the_same_for_a_copy_elsewhere(tmp_path):
    write_images(tmp_path / "a/10_dog", 2)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert index(tmp_path / "a").digest == index(tmp_path / "b").digest


@pytest.mark.parametrize("change", ["caption", "pixels", "repeats", "name"])
def test_digest_changes_with_the_training_data(tmp_path, change):
    folder = tmp_path / "10_dog"
    paths = write_images(folder, 2)
    before = index(tmp_path).digest
    {
        "caption": lambda: (folder / "00.txt").write_text("another"),
        "pixels": lambda: draw_picture(seed=9).save(paths[0]),
        "repeats": lambda: folder.rename(tmp_path / "11_dog"),
        "name": lambda: [path.rename(path.with_stem("09")) for path in (paths[0], paths[0].with_suffix(".txt"))],
    }[change]()
    assert index(tmp_path).digest != before


# JSON captions live in the index because their keys are names inside the data set


def test_json_captions_by_path_or_file_name(tmp_path):
    write_images(tmp_path / "set/1_a", 1, caption=None)
    write_images(tmp_path / "set/1_b", 2, caption=None)
    table = {"1_a/00.png": "first", "1_b/00.png": "second", "01.png": "third"}
    (tmp_path / "captions.json").write_text(json.dumps(table))
    found = index(tmp_path / "set", captions="json", captions_json=tmp_path / "captions.json")
    assert [record.caption for record in found.images] == ["first", "second", "third"]


def test_bare_name_of_two_images_is_not_guessed(tmp_path):
    write_images(tmp_path / "set/1_a", 1, caption=None)
    write_images(tmp_path / "set/1_b", 1, caption=None)
    (tmp_path / "captions.json").write_text('{"00.png": "which?"}')
    with pytest.raises(DataError, match="no caption for 1 of 1"):
        index(tmp_path / "set", captions="json", captions_json=tmp_path / "captions.json")


@pytest.mark.skipif(not DOG6.is_dir(), reason="the photographs are not here")
def test_photographs_are_read():
    found = index(DOG6, captions="class_text", class_text="photo of zwx dog")
    assert all(min(record.size) > 1000 for record in found.images)
    assert decode(found.images[0].path).shape[:2] == found.images[0].size[::-1]
