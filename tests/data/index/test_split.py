import shutil

import pytest

from sdtune.config.data import DataOptions
from sdtune.config.regularization import RegularizationOptions
from sdtune.config.validation import ValidationOptions
from sdtune.data.index.building import build_index
from sdtune.data.index.regularization import find_sources
from sdtune.data.index.split import hold_out
from sdtune.errors import ConfigError, DataError
from sdtune.testing.images import write_images


@pytest.fixture
def split(tmp_path):
    def split(path=tmp_path / "data", regularization=None, **validation):
        data = DataOptions(path=path, resolution="64")
        sources = find_sources(RegularizationOptions(path=regularization, prompt="a dog")) if regularization else ()
        return hold_out(build_index(data, sources), data, ValidationOptions(**validation))

    return split


def digests(index):
    return {image.digest for image in index.images}


def test_both_sides_are_all_images_and_share_none(tmp_path, split):
    write_images(tmp_path / "data", 10)
    (rest, held), (whole, nothing) = split(split=0.3), split()
    assert nothing is None
    assert len(held.index.images) == len(held.placements) == 3
    assert digests(rest) | digests(held.index) == digests(whole)
    assert not digests(rest) & digests(held.index)


def test_the_content_decides_and_not_the_name(tmp_path, split):
    paths = write_images(tmp_path / "data", 10)
    first = split(split=0.3)[1]
    for number, path in enumerate(paths):
        path.rename(path.with_stem(f"{99 - number}"))
        path.with_suffix(".txt").rename(path.with_suffix(".txt").with_stem(f"{99 - number}"))
    assert [image.digest for image in split(split=0.3)[1].index.images] == [
        image.digest for image in first.index.images
    ]


def test_copies_stay_on_one_side_and_are_measured_once(tmp_path, split):
    for folder in ("2_one", "3_two"):
        write_images(tmp_path / "data" / folder, 6)
    rest, held = split(split=0.5)
    assert len(rest.images) == 6
    assert len(held.index.images) == 3
    assert not digests(rest) & digests(held.index)


def test_a_larger_share_keeps_what_was_held_out(tmp_path, split):
    write_images(tmp_path / "data", 10)
    assert digests(split(split=0.2)[1].index) < digests(split(split=0.5)[1].index)
    assert digests(split(split=0.5, most_images=2)[1].index) == digests(split(split=0.2)[1].index)


def test_no_folder_loses_its_last_image(tmp_path, split):
    write_images(tmp_path / "data" / "1_many", 8)
    write_images(tmp_path / "data" / "1_one", 9)
    for path in sorted((tmp_path / "data" / "1_one").iterdir())[:16]:
        path.unlink()
    rest, _ = split(split=0.7)
    assert {image.subset.name for image in rest.images} == {"1_many", "1_one"}


def test_regularization_images_are_never_held_out(tmp_path, split):
    paths = write_images(tmp_path / "data", 8)
    (tmp_path / "reg").mkdir()
    for path in paths[:6]:
        shutil.copy(path, tmp_path / "reg" / path.name)
    rest, held = split(regularization=tmp_path / "reg", split=0.5)
    assert len(rest.regularization) == 6
    assert not digests(rest) & digests(held.index)


@pytest.mark.parametrize(("share", "message"), [(0.1, "holds out none of 4"), (0.9, "leaves nothing to train on of 4")])
def test_a_split_with_an_empty_side_is_refused(tmp_path, split, share, message):
    write_images(tmp_path / "data", 4)
    with pytest.raises(ConfigError, match=message):
        split(split=share)


def test_the_only_image_of_every_folder_is_not_taken(tmp_path, split):
    write_images(tmp_path / "data" / "1_one", 1)
    for path in write_images(tmp_path / "data" / "1_two", 2)[:1]:
        path.unlink()
        path.with_suffix(".txt").unlink()
    with pytest.raises(ConfigError, match="the only image of a folder"):
        split(split=0.5)


def test_patience_takes_enough_images(tmp_path, split):
    write_images(tmp_path / "data", 8)
    with pytest.raises(ConfigError, match="patience takes 4 validation images at least, there are 2"):
        split(split=0.25, patience=2)


def test_a_folder_of_its_own_leaves_the_training_images(tmp_path):
    paths = write_images(tmp_path / "data", 6)
    (tmp_path / "val").mkdir()
    for path in paths[:2]:
        path.rename(tmp_path / "val" / path.name)
        path.with_suffix(".txt").rename(tmp_path / "val" / path.with_suffix(".txt").name)
    data = DataOptions(path=tmp_path / "data", resolution="64")
    whole = build_index(data)
    rest, held = hold_out(whole, data, ValidationOptions(path=tmp_path / "val"))
    assert rest.images == whole.images
    assert len(held.index.images) == 2
    assert rest.digest != whole.digest


def test_a_folder_with_training_images_is_refused(tmp_path):
    write_images(tmp_path / "data", 6)
    write_images(tmp_path / "val", 2)
    data = DataOptions(path=tmp_path / "data", resolution="64")
    with pytest.raises(DataError, match=r"2 validation images are trained on too: \d\d.png is \d\d.png"):
        hold_out(build_index(data), data, ValidationOptions(path=tmp_path / "val"))
