"""Images that cannot be read: refused together, or left out before anything is planned."""

import logging

import pytest
from PIL import Image

from sdtune.config.data import DataOptions
from sdtune.data.index.bad_images import why_bad
from sdtune.data.index.building import build_index
from sdtune.errors import DataError
from sdtune.testing.images import write_images


def cut(path, kept=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])


def index(folder, **options):
    return build_index(DataOptions(path=folder, **options))


def test_skip_leaves_out_a_cut_off_image_and_names_it(tmp_path, caplog):
    cut(write_images(tmp_path, 8, image_suffix=".jpg")[3])
    with caplog.at_level(logging.WARNING):
        found = index(tmp_path, bad_images="skip")
    assert [image.name for image in found.images] == [f"0{n}.jpg" for n in range(8) if n != 3]
    assert "left out, since they cannot be read: 03.jpg" in found.notes
    assert "left out: corrupt image" in caplog.text


def test_without_bad_images_skip_changes_nothing(tmp_path):
    write_images(tmp_path, 3)
    assert index(tmp_path, bad_images="skip") == index(tmp_path)


def test_more_than_one_in_a_hundred_stops_and_all_are_listed(tmp_path):
    paths = write_images(tmp_path, 4)
    cut(paths[1])
    paths[2].write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 4 images cannot be read; .* leaves out 1 of them") as caught:
        index(tmp_path, bad_images="skip")
    assert ["01.png" in str(caught.value), "02.png" in str(caught.value)] == [True, True]


def test_a_folder_of_nothing_but_a_bad_image_is_left_out(tmp_path):
    write_images(tmp_path / "1_a", 2)
    cut(write_images(tmp_path / "1_b", 1)[0])
    assert [subset.name for subset in index(tmp_path, bad_images="skip").subsets] == ["1_a"]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_a_cut_off_file_is_seen_by_the_cheap_decode(tmp_path, suffix):
    (path,) = write_images(tmp_path, 1, sizes=[(200, 160)], image_suffix=suffix)
    assert why_bad(path) is None
    cut(path)
    assert "corrupt image" in str(why_bad(path))


def test_a_jpeg_without_its_last_byte_is_seen_by_the_cheap_decode(tmp_path):
    (path,) = write_images(tmp_path, 1, image_suffix=".jpg")
    path.write_bytes(path.read_bytes()[:-1])
    assert "truncated" in str(why_bad(path))


def test_animated_pictures_may_be_refused(tmp_path):
    (path,) = write_images(tmp_path, 1, image_suffix=".gif")
    assert index(tmp_path, animated="refuse").images
    Image.new("RGB", (64, 64), "red").save(path, save_all=True, append_images=[Image.new("RGB", (64, 64), "blue")])
    assert "1 image with several frames or pages, of which the first is used: 00.gif" in index(tmp_path).notes
    with pytest.raises(DataError, match=r"00.gif has several frames or pages; save .* data.animated=first"):
        index(tmp_path, animated="refuse")
