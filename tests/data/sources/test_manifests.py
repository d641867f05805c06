import json
import sys

import pytest

from sdtune.config.data import DataOptions
from sdtune.config.subsets import SubsetOptions
from sdtune.data.index.building import build_index
from sdtune.data.index.regularization import RegularizationSource
from sdtune.errors import DataError, PlatformError
from sdtune.testing.images import draw_picture, write_images


def write(path, rows):
    """Write rows as the suffix of the file says."""
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
        import pyarrow
        from pyarrow.parquet import write_table

        write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def read(path, **options):
    return build_index(DataOptions(path=path, **options))


def images(index):
    return [(record.name, record.caption, record.subset.repeats) for record in index.images]


@pytest.fixture
def pictures(tmp_path):
    write_images(tmp_path / "a", 2, caption=None)
    write_images(tmp_path / "b", 1, caption=None)
    return tmp_path


@pytest.mark.parametrize("name", ["m.jsonl", "m.parquet"])
@pytest.mark.parametrize(("path", "caption"), [("path", "caption"), ("file_name", "text")])
def test_a_manifest_lists_images_with_captions(pictures, name, path, caption):
    rows = [{path: f"{file}.png", caption: f"picture {file}"} for file in ("a/01", "b/00", "a/00")]
    assert images(read(write(pictures / name, rows))) == [
        ("a/00.png", "picture a/00", 1), ("a/01.png", "picture a/01", 1), ("b/00.png", "picture b/00", 1),
    ]  # fmt: skip


def test_both_forms_of_a_manifest_are_one_data_set(pictures):
    rows = [{"path": "a/00.png", "caption": "x", "repeats": 3}, {"path": "b/00.png", "caption": "y", "repeats": None}]
    found = [read(write(pictures / name, rows)) for name in ("m.jsonl", "m.parquet")]
    assert found[0].digest == found[1].digest


@pytest.mark.parametrize("key", ["a/00", "a/00.png", "{root}/a/00.png", "{root}/a/00"])
def test_kohyas_metadata_is_read_as_it_is(pictures, key):
    row = {"caption": "a dog", "tags": "1dog, brown", "train_resolution": [64, 64], "image_size": [64, 64]}
    index = read(write(pictures / "meta.json", {key.format(root=pictures): row}))
    assert images(index) == [("a/00.png", "a dog, 1dog, brown", 1)]
    assert "meta.json: train_resolution in it is not used" in index.notes


def test_repeats_and_weights_may_differ_from_row_to_row(pictures):
    rows = [
        {"path": "a/00.png", "caption": "x", "repeats": 2.5, "weight": 0.5},
        {"path": "a/01.png", "caption": "y", "weight": 2},
        {"path": "b/00.png", "caption": "z"},
    ]
    found = read(write(pictures / "m.jsonl", rows))
    assert {(r.name, r.subset.repeats, r.subset.weight) for r in found.images} == {
        ("a/00.png", 2.5, 0.5), ("a/01.png", 1, 2), ("b/00.png", 1, 1),
    }  # fmt: skip
    assert len({subset.name for subset in found.subsets}) == 3


def test_folders_of_a_manifest_say_repeats_as_any_others(tmp_path):
    write_images(tmp_path / "5_dog", 1, caption=None)
    write_images(tmp_path / "2_cat", 1, caption=None)
    rows = [{"path": "5_dog/00.png", "caption": "x"}, {"path": "2_cat/00.png", "caption": "y"}]
    found = read(write(tmp_path / "m.jsonl", rows))
    assert [(s.name, s.repeats, s.class_text) for s in found.subsets] == [("2_cat", 2, "cat"), ("5_dog", 5, "dog")]


def test_captions_may_come_from_elsewhere(pictures):
    (pictures / "b/00.txt").write_text("beside it")
    manifest = write(pictures / "m.jsonl", [{"path": "b/00.png"}])
    assert [record.caption for record in read(manifest).images] == ["beside it"]
    found = read(write(manifest, [{"path": "b/00.png", "caption": "in the list"}]), captions="txt")
    assert [record.caption for record in found.images] == ["beside it"]


def test_masks_are_named_in_rows(pictures):
    draw_picture().convert("L").save(pictures / "m.png")
    rows = [{"path": "a/00.png", "caption": "x", "mask": "m.png"}, {"path": "a/01.png", "caption": "y"}]
    found = read(write(pictures / "m.jsonl", rows))
    assert [record.mask and record.mask.path for record in found.images] == [pictures / "m.png", None]


def test_images_that_no_row_names_are_counted(pictures):
    found = read(write(pictures / "m.jsonl", [{"path": "a/00.png", "caption": "x"}]))
    assert f"left out: 1 images in {pictures / 'a'} (1), not in m.jsonl" in found.notes


def test_whole_paths_are_told(pictures):
    (pictures / "lists").mkdir()
    rows = [{"path": str(pictures / "a/00.png"), "caption": "x"}]
    found = read(write(pictures / "lists/m.jsonl", rows))
    assert images(found) == [("a/00.png", "x", 1)]
    assert "m.jsonl names 1 images by their whole path" in found.notes


def test_a_list_among_several_roots(pictures):
    manifest = write(pictures / "m.jsonl", [{"path": "a/00.png", "caption": "x"}])
    write_images(pictures / "c", 1)
    subsets = (SubsetOptions(path=manifest, repeats=4), SubsetOptions(path=pictures / "c"))
    assert images(build_index(DataOptions(subsets=subsets))) == [
        ("m.jsonl/a/00.png", "x", 4), ("c/00.png", "a photo of thing 0", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": "../secret.png"}, "names '../secret.png'; name files in its own folder"),
        ({"path": "a/../../secret.png"}, "name files in its own folder"),
        ({"path": "a\\..\\..\\secret.png"}, "name files in its own folder"),
        ({"path": "a\0.png"}, "name files in its own folder"),
        ({"path": "out/00.png"}, "out is a link to outside"),
        ({"path": "a/link.png"}, "link.png is a link to outside its folder"),
        ({"path": "a/09.png"}, "names 1 images that are not there: a/09.png"),
        ({"path": "z/00.png"}, "no folder .*z, which"),
        ({"path": "a/00.png", "repeats": "3"}, "repeats is '3', not a number"),
        ({"path": "a/00.png", "repeats": -1}, "repeats is -1, not a number"),
        ({"path": "a/00.png", "weight": True}, "weight is True, not a number"),
        ({"path": "a/00.png", "mask": "no.png"}, "no mask .*no.png"),
        ({"path": "a/00.png", "mask": "../no.png"}, "name files in its own folder"),
    ],
)
def test_rows_that_cannot_be_used_are_errors(tmp_path, row, message):
    write_images(tmp_path / "set/a", 1, caption=None)
    write_images(tmp_path / "private", 1, caption=None)
    if "out/" in row["path"]:
        (tmp_path / "set/out").symlink_to(tmp_path / "private", target_is_directory=True)
    if "link" in row["path"]:
        (tmp_path / "set/a/link.png").symlink_to(tmp_path / "private/00.png")
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "set/m.jsonl", [row]), captions="empty")


def test_all_rows_that_cannot_be_used_are_told_at_once(pictures):
    rows = [{"path": "../x.png"}, {"path": "a/08"}, {"path": "a/09"}, {"path": "z/1.png"}]
    with pytest.raises(DataError) as caught:
        read(write(pictures / "m.jsonl", rows))
    assert len(caught.value.problems) == 3


def test_an_image_that_could_be_two_is_not_guessed(tmp_path):
    write_images(tmp_path, 1, caption=None)
    write_images(tmp_path, 1, caption=None, image_suffix=".jpg")
    with pytest.raises(DataError, match=r"00 could be 00\.jpg or 00\.png"):
        read(write(tmp_path / "m.jsonl", [{"path": "00", "caption": "x"}]))


def test_one_image_in_two_rows_is_an_error(pictures):
    with pytest.raises(DataError, match="named more than once"):
        read(write(pictures / "m.jsonl", [{"path": "a/00"}, {"path": "a/00.png"}]))


def test_an_empty_list_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no images in .*m\.jsonl"):
        read(write(tmp_path / "m.jsonl", []))


def test_parquet_takes_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "m.parquet").write_bytes(b"PAR1")
    with pytest.raises(PlatformError, match=r"pip install sdtune\[parquet\]"):
        read(tmp_path / "m.parquet")


def test_parquet_whose_text_is_no_utf_8_is_an_error(tmp_path):
    write(tmp_path / "m.parquet", [{"path": "a/00.png", "caption": "caption"}])
    data = (tmp_path / "m.parquet").read_bytes()
    (tmp_path / "m.parquet").write_bytes(data.replace(b"a/00", b"\xff/00"))
    with pytest.raises(DataError, match="is not Parquet"):
        read(tmp_path / "m.parquet")


def test_damaged_parquet_is_an_error(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "m.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="is not Parquet"):
        read(tmp_path / "m.parquet")


def test_regularization_images_may_be_a_list(pictures):
    write_images(pictures / "own", 1)
    manifest = write(pictures / "m.jsonl", [{"path": "a/00.png", "caption": "a dog"}])
    source = RegularizationSource(
        path=manifest, prefix="regularization/", prompt=None, per_image=0, weight=1.0, weight_end=None
    )
    found = build_index(DataOptions(path=pictures / "own"), (source,))
    assert [(record.name, record.caption) for record in found.regularization] == [("regularization/a/00.png", "a dog")]
