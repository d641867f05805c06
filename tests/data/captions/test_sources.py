import codecs

import pytest

from sdtune.config.data import DataOptions
from sdtune.config.subsets import SubsetOptions
from sdtune.data.index.building import build_index
from sdtune.errors import ConfigError, DataError
from sdtune.testing.images import write_images


def captions(path, **options):
    return [record.caption for record in build_index(DataOptions(path=path, **options)).images]


def write_caption(folder, data):
    write_images(folder, 1, caption=None)
    (folder / "00.txt").write_bytes(data)


@pytest.mark.parametrize("suffix", [".txt", ".caption"])
def test_auto_takes_the_caption_files_there_are(tmp_path, suffix):
    write_images(tmp_path, 2, caption="thing {index}", caption_suffix=suffix)
    found = build_index(DataOptions(path=tmp_path))
    assert [record.caption for record in found.images] == ["thing 0", "thing 1"]
    assert [subset.caption_source for subset in found.subsets] == [suffix.removeprefix(".")]
    assert found.subsets[0].caption_source == suffix[1:]


def test_both_kinds_of_caption_files_are_read_and_told(tmp_path):
    write_images(tmp_path, 5)
    for number in range(2):
        (tmp_path / f"{number:02d}.txt").rename(tmp_path / f"{number:02d}.caption")
    found = build_index(DataOptions(path=tmp_path))
    assert [record.caption for record in found.images] == [f"a photo of thing {number}" for number in range(5)]
    assert found.subsets[0].caption_source == "mixed"
    assert any("3 .txt and 2 .caption files, both are read" in note for note in found.notes)


def test_two_caption_files_of_one_image_must_say_the_same(tmp_path):
    write_images(tmp_path, 2, caption="same")
    (tmp_path / "00.caption").write_bytes(codecs.BOM_UTF8 + b"same\r\n")
    assert captions(tmp_path) == ["same", "same"]
    (tmp_path / "00.caption").write_text("another")
    with pytest.raises(DataError, match=r"1 images .* have a \.txt and a \.caption that differ: 00.png; remove one"):
        captions(tmp_path)
    assert captions(tmp_path, captions="txt") == ["same", "same"]


def test_the_wrong_kind_is_told_with_what_is_there(tmp_path):
    write_images(tmp_path, 3)
    with pytest.raises(DataError, match=r"found 3 \.txt, and data.captions is caption; choose data.captions=txt"):
        captions(tmp_path, captions="caption")


def test_missing_captions_are_never_guessed(tmp_path):
    write_images(tmp_path / "10_dog", 3, caption=None)
    with pytest.raises(DataError) as caught:
        captions(tmp_path)
    message = str(caught.value)
    assert "0 of 3" in message
    for choice in ('data.captions=class_text data.class_text="', "data.captions=filename", "data.captions=empty"):
        assert choice in message


def test_some_missing_captions_are_listed_with_a_count(tmp_path):
    write_images(tmp_path, 9)
    for number in range(7):
        (tmp_path / f"{number:02d}.txt").unlink()
    with pytest.raises(DataError, match=r"no caption for 7 of 9 images in .*: 00.png, .*04.png and 2 more"):
        captions(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        "ein Hündchen".encode(),
        codecs.BOM_UTF8 + "ein Hündchen".encode(),
        codecs.BOM_UTF16_LE + "ein Hündchen".encode("utf-16-le"),
        codecs.BOM_UTF16_BE + "ein Hündchen".encode("utf-16-be"),
        "ein Hündchen\r\n".encode(),
        "\n  ein Hündchen  ".encode(),
    ],
)
def test_unicode_with_or_without_a_mark_is_read(tmp_path, data):
    write_caption(tmp_path, data)
    assert captions(tmp_path) == ["ein Hündchen"]


@pytest.mark.parametrize(
    ("data", "offset"), [("ein Hündchen".encode("cp1252"), 5), ("犬".encode("cp932"), 0), (b"ab\xed\xa0\x80", 2)]
)
def test_other_encodings_are_an_error_with_the_offset(tmp_path, data, offset):
    write_caption(tmp_path, data)
    with pytest.raises(DataError, match=rf"00.txt is not UTF-8 at byte {offset}; save it as UTF-8"):
        captions(tmp_path)


@pytest.mark.parametrize("data", [b"", b"  \n ", b"\x1b", codecs.BOM_UTF8])
def test_empty_file_is_an_error_that_names_it(tmp_path, data):
    write_caption(tmp_path, data)
    with pytest.raises(DataError, match=r"00.txt is empty"):
        captions(tmp_path)


def test_control_characters_are_left_out_and_told(tmp_path):
    write_caption(tmp_path, b"a \x1b[31mred dog\tsits")
    found = build_index(DataOptions(path=tmp_path))
    assert found.images[0].caption == "a [31mred dog sits"
    assert any("control characters" in note for note in found.notes)


@pytest.mark.parametrize(
    ("data", "offset"),
    [(b"ab\x00c", 2), ("犬\0".encode(), 3), (codecs.BOM_UTF16_LE + "a犬\0".encode("utf-16-le"), 6), (b"a\0b\0", 1)],
)
def test_a_nul_is_an_error_with_its_offset(tmp_path, data, offset):
    write_caption(tmp_path, data)
    with pytest.raises(DataError, match=rf"00.txt is no text: a NUL at byte {offset}; save it as UTF-8"):
        captions(tmp_path)


@pytest.mark.parametrize(
    ("rule", "caption"),
    [("first", "one"), ("all", "one, two. three; four"), ("draw", "one\ntwo.\nthree;\nfour")],
)
def test_lines_are_used_as_asked(tmp_path, rule, caption):
    write_caption(tmp_path, b"one\r\n\r\ntwo.\n  three;\nfour\n")
    assert captions(tmp_path, caption_lines=rule) == [caption]


@pytest.mark.parametrize(
    ("rule", "caption"),
    [("class_text", "photo of zwx"), ("filename", "00"), ("folder", "red dog"), ("empty", "")],
)
def test_missing_captions_are_replaced_and_counted(tmp_path, rule, caption):
    folder = tmp_path / "3_red_dog"
    write_images(folder, 3)
    (folder / "00.txt").unlink()
    (folder / "01.txt").write_bytes(b"")
    found = build_index(DataOptions(path=folder, missing_captions=rule, class_text="photo of zwx"))
    other = "01" if rule == "filename" else caption
    assert [record.caption for record in found.images] == [caption, other, "a photo of thing 2"]
    assert any("2 of 3 images in" in note and "have no caption: " in note for note in found.notes)


def test_images_without_a_caption_can_be_left_out(tmp_path):
    write_images(tmp_path, 3)
    (tmp_path / "01.txt").unlink()
    found = build_index(DataOptions(path=tmp_path, missing_captions="skip"))
    assert [record.name for record in found.images] == ["00.png", "02.png"]
    assert any("1 of 3 images" in note and "left out" in note for note in found.notes)


def test_leaving_all_images_out_is_an_error(tmp_path):
    write_images(tmp_path, 2, caption=None)
    with pytest.raises(DataError, match="0 of 2 images"):
        captions(tmp_path, missing_captions="skip")
    with pytest.raises(DataError, match="all are left out"):
        captions(tmp_path, missing_captions="skip", captions="txt")


def test_a_choice_for_missing_captions_serves_for_all_of_them(tmp_path):
    write_images(tmp_path, 2, caption=None)
    found = build_index(DataOptions(path=tmp_path, missing_captions="filename"))
    assert [record.caption for record in found.images] == ["00", "01"]
    assert found.subsets[0].caption_source == "filename"


def test_the_folders_name_can_be_the_caption(tmp_path):
    write_images(tmp_path / "5_zwx_dog", 1, caption=None)
    write_images(tmp_path / "my cat", 1, caption=None)
    assert captions(tmp_path, captions="folder") == ["my cat", "zwx dog"]


def test_first_of_several_lines_counts_and_is_told(tmp_path):
    write_caption(tmp_path, b"first\nsecond")
    found = build_index(DataOptions(path=tmp_path))
    assert found.images[0].caption == "first"
    assert any("several lines" in note for note in found.notes)


@pytest.mark.parametrize("length", [8193, 1 << 20])
def test_long_caption_is_an_error(tmp_path, length):
    write_caption(tmp_path, b"x" * length)
    with pytest.raises(DataError, match="longer than 8192 bytes"):
        captions(tmp_path)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "{{7*7}}", "__import__('os')", "{a|b}, 100% $HOME"])
def test_captions_are_taken_literally(tmp_path, text):
    write_caption(tmp_path, text.encode())
    assert captions(tmp_path) == [text]


def test_independent_caption_problems_are_told_together(tmp_path):
    write_images(tmp_path, 3)
    (tmp_path / "00.txt").write_bytes(b"")
    (tmp_path / "01.txt").write_bytes(b"\xff")
    (tmp_path / "02.txt").unlink()
    with pytest.raises(DataError) as caught:
        captions(tmp_path)
    assert len(caught.value.problems) == 3


def test_class_text_comes_from_the_option(tmp_path):
    write_images(tmp_path / "10_dog", 2, caption=None)
    assert captions(tmp_path, captions="class_text", class_text="photo of zwx dog") == ["photo of zwx dog"] * 2


def test_class_text_comes_from_the_folder(tmp_path):
    write_images(tmp_path / "10_zwx dog", 1, caption=None)
    assert captions(tmp_path, captions="class_text") == ["zwx dog"]


def test_class_text_of_a_subset_comes_first(tmp_path):
    write_images(tmp_path / "10_dog", 1, caption=None)
    subset = SubsetOptions(path=tmp_path / "10_dog", class_text="own", captions="class_text")
    found = build_index(DataOptions(subsets=(subset,), class_text="common"))
    assert found.images[0].caption == "own"


def test_no_class_text_is_an_error(tmp_path):
    write_images(tmp_path / "dogs", 1, caption=None)
    with pytest.raises(DataError, match="has no class text"):
        captions(tmp_path, captions="class_text")


def test_class_text_that_is_not_used_is_told(tmp_path):
    write_images(tmp_path, 1)
    found = build_index(DataOptions(path=tmp_path, class_text="dog"))
    assert any("data.class_text is in no caption" in note for note in found.notes)


def test_file_names_can_be_captions(tmp_path):
    write_images(tmp_path, 1, caption=None)[0].rename(tmp_path / "a_brown dog.png")
    assert captions(tmp_path, captions="filename") == ["a brown dog"]


def test_empty_captions_must_be_asked_for(tmp_path):
    write_images(tmp_path, 2, caption=None)
    assert captions(tmp_path, captions="empty") == ["", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "is not one map"),
        ('{"00.png": 1}', "is not one map"),
        ("{", "is not JSON"),
        ('{"00.png": "a", "00.png": "b"}', "more than once"),
        ('{"other.png": "a"}', "no caption for 1 of 1"),
        ('{"00.png": " "}', "is empty"),
    ],
)
def test_wrong_json_is_an_error(tmp_path, text, message):
    write_images(tmp_path / "dogs", 1, caption=None)
    (tmp_path / "captions.json").write_text(text)
    with pytest.raises(DataError, match=message):
        captions(tmp_path / "dogs", captions="json", captions_json=tmp_path / "captions.json")


def test_json_needs_its_file(tmp_path):
    write_images(tmp_path, 1)
    with pytest.raises(ConfigError, match="belong together"):
        captions(tmp_path, captions="json")
