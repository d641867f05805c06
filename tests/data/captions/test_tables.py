import json

import pytest

from sdtune.config.data import DataOptions
from sdtune.config.subsets import SubsetOptions
from sdtune.data.captions.tables import read_caption_table
from sdtune.data.index.building import build_index
from sdtune.errors import DataError
from sdtune.testing.images import write_images


def write(path, text):
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return path


def captions(place, **options):
    found = build_index(DataOptions(path=place, captions="json", **options))
    return [record.caption for record in found.images]


# What a table may look like


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.json", '{"1.png": "one", "2.png": "two"}'),
        ("t.json", '\ufeff{"1.png": "one", "2.png": "two"}'),
        ("t.json", '{"1.png": {"caption": "one"}, "2.png": {"tags": "two", "image_size": [8, 8]}}'),
        ("t.json", '[{"file_name": "1.png", "text": "one"}, {"file_name": "2.png", "caption": "two"}]'),
        ("t.jsonl", '{"file_name": "1.png", "text": "one"}\n\n{"file_name": "2.png", "text": "two"}\n'),
        ("t.jsonl", '{"path": "./1.png", "caption": "one"}\r\n{"image_path": "2.png", "caption": "two"}'),
        ("t.json", '{"1.png": "one", "2.png": "two", "3.png": null}'),
    ],
)
def test_tables_of_any_form_are_one_map(tmp_path, name, text):
    assert read_caption_table(write(tmp_path / name, text)) == {"1.png": "one", "2.png": "two"}


def test_utf_16_tables_are_read(tmp_path):
    (tmp_path / "t.json").write_text('{"1": "犬"}', encoding="utf-16")
    assert read_caption_table(tmp_path / "t.json") == {"1": "犬"}


@pytest.mark.parametrize(
    ("row", "caption"),
    [
        ({"caption": "a dog", "tags": "1dog, brown"}, "a dog, 1dog, brown"),
        ({"caption": "a dog", "tags": ""}, "a dog"),
        ({"caption": "a dog", "tags": ["1dog", "brown"]}, "a dog, 1dog, brown"),
        ({"caption": "", "tags": "1dog"}, "1dog"),
    ],
)
def test_kohyas_tags_go_behind_its_caption(tmp_path, row, caption):
    assert read_caption_table(write(tmp_path / "meta.json", {"1": row})) == {"1": caption}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.json", "[1]", "is not one map"),
        ("t.json", '"dog"', "is not one map"),
        ("t.json", '{"1": 2}', "is not one map"),
        ("t.json", "[" * 100_000, "is not JSON"),
        ("t.json", '{"1": {"caption": ' + "9" * 5000 + "}}", "is not JSON"),
        ("t.json", '{"1": "a", "1": "b"}', "names 1 more than once"),
        ("t.json", '{"1": "a", "./1": "b"}', "names 1 more than once"),
        ("t.json", '{"1": {"caption": 3}}', "1: caption is 3, not text"),
        ("t.json", '{"1": {"tags": 3}}', "1: tags are 3, not text"),
        ("t.jsonl", "{}", "line 1 names no image"),
        ("t.jsonl", '{"file_name": "1"}\n[]', "line 2 is no JSON object"),
        ("t.jsonl", '{"file_name": "1"}\n{', "line 2 is not JSON"),
        ("t.jsonl", '{"file_name": "1", "text": "a", "caption": "b"}', "line 1 has both caption and text"),
        ("t.jsonl", '{"file_name": "1", "text": "' + "a" * (1 << 20) + '"}', "line 1 is longer than 1 MiB"),
    ],
)
def test_what_is_no_table_is_an_error(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        read_caption_table(write(tmp_path / name, text))


def test_other_bytes_are_an_error_that_names_the_place(tmp_path):
    (tmp_path / "t.json").write_bytes(b'{"1": "caf\xe9"}')
    with pytest.raises(DataError, match="is not UTF-8 at byte 10"):
        read_caption_table(tmp_path / "t.json")


def test_all_bad_rows_are_told_at_once(tmp_path):
    with pytest.raises(DataError) as caught:
        read_caption_table(write(tmp_path / "t.json", {"1": {"caption": 1}, "2": {"caption": "x"}, "3": {"tags": 3}}))
    assert len(caught.value.problems) == 2


# Which image a row names


@pytest.mark.parametrize(
    "key", ["00.png", "00", "dogs/00.png", "dogs/00", "dogs\\00.png", "./00", "set/dogs/00.png", "{absolute}"]
)
def test_a_key_names_an_image_with_or_without_suffix_and_folders(tmp_path, key):
    (image,) = write_images(tmp_path / "set/dogs", 1, caption=None)
    table = write(tmp_path / "captions.json", {key.format(absolute=image): "a dog"})
    assert captions(tmp_path / "set/dogs", captions_json=table) == ["a dog"]


def test_only_the_suffix_of_an_image_is_left_out(tmp_path):
    for path, name in zip(write_images(tmp_path / "set", 2, caption=None), ["a.b.png", "a.c.png"], strict=True):
        path.rename(path.with_name(name))
    table = write(tmp_path / "captions.json", {"a.b": "first", "a.c": "second"})
    assert captions(tmp_path / "set", captions_json=table) == ["first", "second"]


def test_names_are_compared_in_one_unicode_form(tmp_path):
    (image,) = write_images(tmp_path / "set", 1, caption=None)
    image.rename(image.with_name("cafe\u0301.png"))
    table = write(tmp_path / "captions.json", {"caf\u00e9": "coffee"})
    assert captions(tmp_path / "set", captions_json=table) == ["coffee"]


def test_a_key_in_the_tables_own_folder_is_meant_exactly(tmp_path):
    write_images(tmp_path / "a", 1, caption=None)
    write_images(tmp_path / "a/b", 1, caption=None)
    table = write(tmp_path / "a/captions.json", {"00.png": "outer", "b/00.png": "inner"})
    subsets = (SubsetOptions(path=tmp_path / "a"), SubsetOptions(path=tmp_path / "a/b"))
    found = build_index(DataOptions(subsets=subsets[:1], captions="json", captions_json=table))
    assert found.images[0].caption == "outer"


def test_each_folder_may_have_a_table_of_its_own(tmp_path):
    write_images(tmp_path / "a", 1, caption=None)
    write_images(tmp_path / "b", 1, caption=None)
    write_images(tmp_path / "c", 1)
    table = {name: write(tmp_path / f"{name}.json", {"00": f"of {name}"}) for name in "ab"}
    subsets = (
        SubsetOptions(path=tmp_path / "a", captions="json", captions_json=table["a"]),
        SubsetOptions(path=tmp_path / "b"),
        SubsetOptions(path=tmp_path / "c", captions="txt"),
    )
    found = build_index(DataOptions(subsets=subsets, captions="json", captions_json=table["b"]))
    assert [record.caption for record in found.images] == ["of a", "of b", "a photo of thing 0"]
