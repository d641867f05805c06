import pytest

from sdtune.api import ConfigError
from sdtune_textual_inversion.templates import TEMPLATES, fill, mentions, read_template


@pytest.mark.parametrize("name", ["subject", "style", "subject_filewords", "style_filewords"])
def test_each_line_of_a_template_has_the_name_once(name):
    assert all(line.count("[name]") == 1 for line in TEMPLATES[name])
    assert len(set(TEMPLATES[name])) == len(TEMPLATES[name])
    assert all(("[filewords]" in line) == name.endswith("filewords") for line in TEMPLATES[name])


def test_none_is_the_caption_as_it_is():
    assert [fill(line, "zwx", "a zwx, in [name]") for line in read_template("none")] == ["a zwx, in [name]"]


def test_a_file_has_one_text_a_line(tmp_path):
    (tmp_path / "own.txt").write_text("\n one [name]\n\n[filewords]  \n", encoding="utf-8")
    assert read_template(str(tmp_path / "own.txt")) == ("one [name]", "[filewords]")


@pytest.mark.parametrize(("content", "message"), [(None, "cannot read"), (b"\n \n", "is empty"), (b"\xff", "cannot")])
def test_a_file_that_is_no_template_is_refused(tmp_path, content, message):
    path = tmp_path / "own.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_template(str(path))


def test_an_empty_caption_leaves_no_comma():
    assert fill("a [name], [filewords]", "zwx", "") == "a zwx"
    assert fill("[filewords], [name]", "zwx", "") == "zwx"


@pytest.mark.parametrize(
    ("text", "found"),
    [("a zwx dog", True), ("ZWX", True), ("zwx2, old", True), ("(zwx)", True), ("zwxy", False), ("a zw x", False)],
)
def test_a_word_is_found_where_clip_finds_it(text, found):
    assert mentions(text, "zwx") is found
