import random
import re
from pathlib import Path

import pytest

from sdtune.config.data import DataOptions
from sdtune.config.objective import MaskOptions
from sdtune.config.regularization import RegularizationOptions
from sdtune.config.subsets import SubsetOptions, SubsetRegularizationOptions
from sdtune.data.index.building import build_index
from sdtune.data.index.regularization import RegularizationSource, find_sources
from sdtune.data.sources.folders import find_folders
from sdtune.errors import DataError
from sdtune.testing.images import write_images


def touch(root, *names):
    """Make empty files; a folder's content is not looked at while folders are found."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root, **options):
    """Give name -> (repeats, class text, number of images), and the notes."""
    folders, notes = find_folders(DataOptions(path=root, **options))
    return {f.name: (f.repeats, f.class_text, len(f.listing.images)) for f in folders}, notes


def record_names(folders):
    return [folder.prefix + path.name for folder in folders for path in folder.listing.images]


# Arrangements: files -> folders (repeats, class text, images)

ARRANGEMENTS = {
    "a flat folder": (["1.png", "2.jpg"], {"set": (1, "", 2)}),
    "numbered folders": (["2_cat/1.png", "10_a dog/1.png"], {"2_cat": (2, "cat", 1), "10_a dog": (10, "a dog", 1)}),
    "folders without a number": (["a/1.png", "b/1.png"], {"a": (1, "", 1), "b": (1, "", 1)}),
    "a number alone": (["10/1.png"], {"10": (10, "", 1)}),
    "numbers that are years and counts": (["2023/1.png", "007/1.png"], {"007": (1, "", 1), "2023": (1, "", 1)}),
    "a number that is not in front": (["train_1_person/1.png"], {"train_1_person": (1, "", 1)}),
    "two underscores": (["10_a_b/1.png"], {"10_a_b": (10, "a_b", 1)}),
    "a number above": (["10_dog/1.png", "10_dog/old/1.png"], {"10_dog": (10, "dog", 1), "10_dog/old": (10, "dog", 1)}),
    "the nearest number": (
        ["10_dog/a/5_puppy/1.png", "10_dog/a/1.png"],
        {"a": (10, "dog", 1), "a/5_puppy": (5, "puppy", 1)},
    ),
    "loose images beside folders": (["1.png", "10_dog/1.png"], {"set": (1, "", 1), "10_dog": (10, "dog", 1)}),
    "deep trees": (["a/b/c/1.png", "a/d/1.png"], {"b/c": (1, "", 1), "d": (1, "", 1)}),
    "one folder too high": (["img/10_dog/1.png"], {"10_dog": (10, "dog", 1)}),
    "two folders too high": (["x/y/10_a/1.png", "x/y/2_b/1.png"], {"2_b": (2, "b", 1), "10_a": (10, "a", 1)}),
    "kohya's work folder": (
        ["img/10_dog/1.png", "log/x.txt", "model/sample/1.png"],
        {"10_dog": (10, "dog", 1)},
    ),
    "other letters": (["3_張/1.png", "3_张/1.png"], {"3_张": (3, "张", 1), "3_張": (3, "張", 1)}),
}  # fmt: skip


@pytest.mark.parametrize(("files", "folders"), ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_any_arrangement_is_read(tmp_path, files, folders):
    touch(tmp_path / "set", *files)
    assert found(tmp_path / "set")[0] == folders


def test_numbers_of_the_folder_that_is_named_count_for_those_in_it(tmp_path):
    touch(tmp_path / "10_dog", "1.png", "old/1.png")
    assert found(tmp_path / "10_dog")[0] == {"10_dog": (10, "dog", 1), "old": (10, "dog", 1)}


@pytest.mark.parametrize("level", ["project", "project/img"])
def test_images_have_the_same_names_whichever_folder_above_is_named(tmp_path, level):
    touch(tmp_path / "project/img", "10_dog/1.png")
    touch(tmp_path / "project", "log/notes.txt", "model/last.safetensors")
    folders, _ = find_folders(DataOptions(path=tmp_path / level))
    assert record_names(folders) == ["10_dog/1.png"]


@pytest.mark.parametrize("name", ["0_dog", "20240131_holiday"])
@pytest.mark.parametrize("below", ["", "close up/"])
def test_a_number_that_cannot_be_meant_is_an_error(tmp_path, name, below):
    touch(tmp_path, f"{name}/{below}1.png", "2_cat/1.png")
    with pytest.raises(DataError, match="repeats of each image"):
        found(tmp_path)


def test_a_numbered_folder_without_images_is_an_error(tmp_path):
    touch(tmp_path, "10_dog/1.png", "5_cat/1.txt", "5_bird/perching/1.png")
    with pytest.raises(DataError, match=r"no images in \S+5_cat; remove"):
        found(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("1.png", "is a file, not a folder of images; give its folder"),
        ("a.toml", "is a dataset file"),
        ("b", "no folder"),
    ],
)
def test_what_is_no_place_for_images_is_an_error(tmp_path, name, message):
    touch(tmp_path, "1.png", "a.toml")
    with pytest.raises(DataError, match=message):
        subsets({"path": tmp_path / name})


def test_a_place_without_images_is_an_error_that_says_what_images_are(tmp_path):
    touch(tmp_path, "1.txt")
    with pytest.raises(DataError, match=r"no images in .*; images are .*\.png"):
        found(tmp_path)


# What was understood is said


@pytest.mark.parametrize(
    ("files", "note"),
    [
        (["10_dog/1.png", "more/1.png"], "more: 1 images, repeats 1 (no number in the folder's name)"),
        (["1.png", "10_dog/1.png"], "set: 1 images, beside its folders, repeats 1"),
        (["10_dog/old/1.png", "10_dog/1.png"], "10_dog/old: 1 images, repeats 10 (of a folder above it)"),
        (["img/10_dog/1.png"], "all images of {root} lie in img"),
        (["10_dog/1.png", "notes.md", "Thumbs.db"], "ignored files in folders without images: 2 other"),
        (["10_dog/1.png", ".git/1.png", "a/__MACOSX/1.png"], "left out: 2 images in .git, a/__MACOSX, hidden"),
        (
            ["img/1_x/1.png", "model/sample/1.png"],
            "left out: 1 images in model, beside the img folder of kohya's tools",
        ),
        (["1_x/1.png", "out/run.json", "out/1.png"], "left out: 1 images in out, a run of sdtune"),
    ],
)
def test_what_was_understood_is_said(tmp_path, files, note):
    touch(tmp_path / "set", *files)
    assert note.format(root=tmp_path / "set") in found(tmp_path / "set")[1]


def test_many_folders_take_few_lines(tmp_path):
    touch(tmp_path, *(f"{number}x/1.png" for number in range(20)))
    notes = found(tmp_path)[1]
    assert len(notes) == 6
    assert notes[-1] == "and 15 more folders like it"


# What is left out


@pytest.mark.parametrize("name", ["reg", "1_reg", "Regularization", "10_dog/reg"])
def test_a_folder_named_like_regularization_images_is_not_trained(tmp_path, name):
    touch(tmp_path, "10_dog/1.png", f"{name}/1.png", f"{name}/5_dog/1.png")
    folders, notes = found(tmp_path)
    assert folders == {"10_dog": (10, "dog", 1)}
    assert notes == [
        f"left out: 2 images in {name}, named like regularization images; "
        f"to use them as such, set regularization.path={tmp_path / name}"
    ]


def test_nothing_but_regularization_images_is_an_error(tmp_path):
    touch(tmp_path, "reg/1.png")
    with pytest.raises(DataError, match=r"it has only reg \(1 images, named like regularization images\)"):
        found(tmp_path)


def test_regularization_images_that_are_named_as_such_are_read_in_any_arrangement(tmp_path):
    write_images(tmp_path / "10_dog", 1)
    write_images(tmp_path / "reg/near/1_dog", 1)
    write_images(tmp_path / "reg/near/2_dog", 1)
    source = RegularizationSource(
        path=tmp_path / "reg", prefix="regularization/", prompt=None, per_image=0, weight=1.0, weight_end=None
    )
    index = build_index(DataOptions(path=tmp_path), (source,))
    assert [record.name for record in index.images] == [
        "10_dog/00.png", "regularization/1_dog/00.png", "regularization/2_dog/00.png",
    ]  # fmt: skip
    assert any("2 images in reg, regularization images" in note for note in index.notes)


def test_masks_in_use_are_no_images(tmp_path):
    touch(tmp_path, "10_dog/1.png", "10_dog/masks/1.png", "masks/1.png")
    folders, notes = found(tmp_path, mask=MaskOptions(dir=tmp_path / "masks"))
    assert folders == {"10_dog": (10, "dog", 1), "10_dog/masks": (10, "dog", 1)}
    assert "left out: 1 images in masks, masks" in notes


def test_validation_images_inside_are_no_training_images(tmp_path):
    touch(tmp_path, "10_dog/1.png", "val/1.png")
    folders, notes = find_folders(DataOptions(path=tmp_path), {tmp_path / "val": "validation images"})
    assert record_names(folders) == ["10_dog/1.png"]
    assert notes == ["left out: 1 images in val, validation images"]


# Links


def test_links_in_a_circle_end(tmp_path):
    touch(tmp_path, "10_dog/1.png")
    (tmp_path / "10_dog/again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    folders, notes = found(tmp_path)
    assert folders == {"10_dog": (10, "dog", 1)}
    assert "left out: 0 images in 10_dog/again, a link to a folder that is read itself" in notes


def test_a_link_to_images_elsewhere_is_an_error(tmp_path):
    touch(tmp_path, "set/10_dog/1.png", "private/1.png")
    (tmp_path / "set/more").symlink_to(tmp_path / "private", target_is_directory=True)
    with pytest.raises(DataError, match=r"more is a link; list the folder it leads to"):
        found(tmp_path / "set")


def test_the_place_that_is_named_may_be_a_link(tmp_path):
    touch(tmp_path, "10_dog/1.png")
    (tmp_path / "here").symlink_to(tmp_path / "10_dog", target_is_directory=True)
    assert found(tmp_path / "here")[0] == {"10_dog": (10, "dog", 1)}


# Several roots


def subsets(*entries):
    return find_folders(DataOptions(subsets=[SubsetOptions(**entry) for entry in entries]))


def test_options_of_a_root_hold_for_all_folders_in_it(tmp_path):
    touch(tmp_path, "set/1_a/1.png", "set/x/2_b/1.png", "dogs/1.png")
    folders, _ = subsets(
        {"path": tmp_path / "set", "repeats": 2.5, "class_text": "cat", "flip": True}, {"path": tmp_path / "dogs"}
    )
    assert [(f.name, f.repeats, f.class_text, f.options.flip) for f in folders] == [
        ("set/x/2_b", 2.5, "cat", True), ("set/1_a", 2.5, "cat", True), ("dogs", 1.0, "", False),
    ]  # fmt: skip
    assert record_names(folders) == ["set/x/2_b/1.png", "set/1_a/1.png", "dogs/1.png"]


def test_a_folder_that_is_named_itself_is_not_read_with_the_one_around_it(tmp_path):
    touch(tmp_path, "set/1_a/1.png", "set/2_b/1.png")
    folders, notes = subsets({"path": tmp_path / "set"}, {"path": tmp_path / "set/2_b", "repeats": 7})
    assert [(f.name, f.repeats) for f in folders] == [("set/1_a", 1), ("2_b", 7)]
    assert notes == ["left out: 1 images in set/2_b, named in data.subsets itself"]


def test_one_folder_may_be_trained_at_several_resolutions(tmp_path):
    touch(tmp_path, "dog/1.png")
    path = tmp_path / "dog"
    folders, _ = subsets({"path": path}, {"path": path, "resolution": "768"}, {"path": path, "resolution": "1024"})
    assert [f.name for f in folders] == ["dog", "dog@768", "dog@1024"]
    assert record_names(folders) == ["dog/1.png", "dog@768/1.png", "dog@1024/1.png"]
    assert [f.options.resolution for f in folders] == [None, "768", "1024"]


def test_one_folder_twice_at_one_resolution_is_an_error(tmp_path):
    touch(tmp_path, "dog/1.png")
    with pytest.raises(DataError, match="at 768 px 2 times"):
        subsets(*({"path": tmp_path / "dog", "resolution": "768"},) * 2)


def test_roots_of_like_names_are_told_apart(tmp_path):
    touch(tmp_path, "a/dog/1.png", "b/dog/1.png", "c/b/dog/1.png")
    folders, _ = subsets({"path": tmp_path / "a/dog"}, {"path": tmp_path / "b/dog"}, {"path": tmp_path / "c"})
    names = record_names(folders)
    assert len(set(names)) == len({f.name for f in folders}) == 3


# A property of all trees


@pytest.mark.parametrize("seed", range(20))
def test_every_image_is_read_once_or_counted_among_what_is_left_out(tmp_path, seed):
    draws = random.Random(seed)
    parts = ["a", "b", "3_x", "10", "2023", "reg", ".hidden", "__MACOSX", "img", "log", "model", "run"]
    files = {"/".join([*draws.choices(parts, k=draws.randrange(5)), f"{draws.randrange(3)}.png"]) for _ in range(12)}
    touch(tmp_path, "sure.png", *files)
    folders, notes = find_folders(DataOptions(path=tmp_path))
    read = [path for folder in folders for path in folder.listing.images]
    left_out = sum(int(count) for note in notes for count in re.findall(r"^left out: (\d+) images", note))
    assert len(read) == len(set(read)) == len(set(record_names(folders)))
    assert len(read) + left_out == len(list(Path(tmp_path).rglob("*.png")))


def test_regularization_images_of_a_root_belong_to_all_folders_in_it(tmp_path):
    write_images(tmp_path / "set/1_a", 1)
    write_images(tmp_path / "set/2_b", 1)
    write_images(tmp_path / "other", 1)
    write_images(tmp_path / "class", 1)
    root = SubsetOptions(path=tmp_path / "set", regularization=SubsetRegularizationOptions(path=tmp_path / "class"))
    subsets = (root, SubsetOptions(path=tmp_path / "other"))
    sources = find_sources(RegularizationOptions(), DataOptions(subsets=subsets))
    index = build_index(DataOptions(subsets=subsets), sources)
    assert [s.pairs_with for s in index.subsets if s.is_regularization] == [("set/1_a", "set/2_b")]
