import pytest

from sdtune.config.data import DataOptions
from sdtune.data.captions.captioner import Captioner
from sdtune.data.captions.templates import draw_wildcards, fill_line, put_words, read_templates, uses_caption
from sdtune.data.index.building import build_index
from sdtune.data.types import Visit
from sdtune.errors import DataError
from sdtune.testing.images import write_images

WORDS = {"pt1": "zwx", "style": "oil"}


def first(number, parts):
    return parts[0]


def last(number, parts):
    return parts[-1]


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("a {pt1} dog", "a zwx dog"),
        ("a {pt1:1.2} dog", "a (zwx:1.2) dog"),
        ("{ pt1 : .5 }, {style}", "(zwx:.5), oil"),
        ("a {other} dog, {other:1.1}, red", "a dog, red"),
        ("{other}", ""),
        ("{a|b} {{pt1}} {1}", "{a|b} {{pt1}} {1}"),
    ],
)
def test_words_stand_for_placeholders(text, filled):
    assert put_words(text, WORDS) == filled


def test_a_word_is_not_read_again():
    assert put_words("{a} {b}", {"a": "{b}", "b": "c"}) == "{b} c"


@pytest.mark.parametrize(
    ("line", "filled"),
    [
        ("a photo of a [name], [filewords]", "a photo of a zwx, red, {pt1}"),
        ("{caption} by {pt1:1.1}", "red, {pt1} by (who:1.1)"),
        ("{name} {class}", "zwx dog"),
        ("art, {nobody}, {caption:0.9}", "art, (red, {pt1}:0.9)"),
    ],
)
def test_templates_of_webui_and_of_placeholders_are_filled(line, filled):
    assert fill_line(line, "red, {pt1}", {"name": "zwx", "class": "dog", "pt1": "who"}) == filled


def test_an_empty_caption_leaves_no_comma():
    assert fill_line("a photo of a [name], [filewords]", "", {"name": "zwx"}) == "a photo of a zwx"


@pytest.mark.parametrize(("line", "uses"), [("[filewords]", True), ("{caption:1.2}", True), ("a {{caption}}", False)])
def test_lines_with_a_place_for_the_caption_are_told_apart(line, uses):
    assert uses_caption(line) == uses


@pytest.mark.parametrize(
    ("text", "one", "other"),
    [
        ("{red|blue} dog", "red dog", "blue dog"),
        ("a {|big }dog {x}", "a dog x", "a big dog x"),
        ("{{a|b}} {c|d}", "{a|b} c", "{a|b} d"),
        ("{(red:1.2)|blue}", "(red:1.2)", "blue"),
        ("{a|b", "{a|b", "{a|b"),
        ("{}", "{}", "{}"),
    ],
)
def test_wildcards_are_replaced_by_one_of_their_parts(text, one, other):
    assert draw_wildcards(text, first) == one
    assert draw_wildcards(text, last) == other


def test_wildcards_are_numbered_from_left_to_right():
    assert draw_wildcards("{a|b}{a|b}{a|b}", lambda number, parts: parts[number == "1"]) == "aba"


# Files


def test_a_file_of_templates_has_one_in_a_line(tmp_path):
    (tmp_path / "own.txt").write_bytes(b"\xef\xbb\xbfa [name]\r\n\r\n  [filewords] \n")
    assert read_templates(tmp_path / "own.txt") == ("a [name]", "[filewords]")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "no file"),
        (b"", "holds no template; write one a line"),
        (b"\n \n", "holds no template"),
        (b"a \xe4", "is not UTF-8 at byte 2"),
        (b"a\0", "a NUL at byte 1"),
        (b"ok\n" + b"x" * 9000, "line 2 of .* is longer than 8192 bytes"),
    ],
)
def test_a_wrong_file_of_templates_is_an_error(tmp_path, data, message):
    if data is not None:
        (tmp_path / "own.txt").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_templates(tmp_path / "own.txt")


def test_a_template_with_a_name_needs_a_token(tmp_path):
    write_images(tmp_path / "dogs", 1)
    (tmp_path / "own.txt").write_text("a photo of a [name]")
    with pytest.raises(DataError, match=r"\[name\] stands for data.token, which is not set: .*; set data.token"):
        build_index(DataOptions(path=tmp_path / "dogs", templates=tmp_path / "own.txt"))


def test_templates_without_a_place_for_captions_need_none(tmp_path):
    write_images(tmp_path / "dogs", 1, caption=None)
    (tmp_path / "own.txt").write_text("a photo of a [name]\na picture of [name]")
    found = build_index(DataOptions(path=tmp_path / "dogs", templates=tmp_path / "own.txt", token="zwx"))
    captioner = Captioner(found, 1)
    drawn = {captioner.caption(Visit(image=0, sample_id=str(number)), 0) for number in range(30)}
    assert found.subsets[0].caption_source == "prompt"
    assert drawn == set(captioner.fixed()) == {"a photo of a zwx", "a picture of zwx"}


def test_another_file_of_templates_is_another_data_set(tmp_path):
    write_images(tmp_path / "dogs", 1)
    options = DataOptions(path=tmp_path / "dogs", templates=tmp_path / "own.txt")
    digests = set()
    for text in ("one [filewords]", "two [filewords]", "one [filewords]\n"):
        (tmp_path / "own.txt").write_text(text)
        digests.add(build_index(options).digest)
    assert len(digests) == 2


def test_placeholders_without_a_word_are_told(tmp_path):
    write_images(tmp_path / "dogs", 1, caption="a {{pt1}} and {{pt2}}")
    (tmp_path / "own.txt").write_text("{style}, {caption}, {name}")
    options = DataOptions(path=tmp_path / "dogs", words={"pt1": "zwx"}, templates=tmp_path / "own.txt")
    assert any("no word for {pt2}, {style} in" in note for note in build_index(options).notes)
    assert not any("no word" in note for note in build_index(DataOptions(path=tmp_path / "dogs")).notes)
