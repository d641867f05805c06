from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

import sdtune.config.yaml as reader
from sdtune.config.dump import write_flow
from sdtune.config.yaml import read_document, read_file, read_options
from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from sdtune.config.tree import Node


@pytest.fixture(params=["SafeLoader", "CSafeLoader"], autouse=True)
def loader(request, monkeypatch):
    """Both parsers, the one in Python and the one in C, obey the same rules."""
    if not hasattr(yaml, request.param):
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(reader, "LOADER", getattr(yaml, request.param))


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_options(text, "run.yaml")
    return str(caught.value).splitlines()


def values(node: Node) -> object:
    if isinstance(node.value, dict):
        return {key: values(child) for key, child in node.children()}
    return [values(item) for _, item in node.children()] if isinstance(node.value, tuple) else node.value


def test_values_and_nesting_are_read():
    text = "a:\n  b: [1, '2', {c: 1e-4}]\n  d: |\n    x\n    y\n- : 1\n"
    assert values(read_options(text.replace("- : 1\n", ""), "f")) == {"a": {"b": [1, "2", {"c": 1e-4}], "d": "x\ny\n"}}


def test_each_value_knows_its_line():
    tree = read_options("a: 1\nb:\n  c:\n  - 2\n  - d: 3\n", "run.yaml")
    paths = [("a",), ("b", "c"), ("b", "c", "0"), ("b", "c", "1", "d")]
    assert [tree.find(path).origin for path in paths] == ["run.yaml:1", "run.yaml:3", "run.yaml:4", "run.yaml:5"]


def test_an_alias_stands_for_its_anchor_and_has_the_line_of_its_use():
    node = read_options("a: &x [1, 2]\nb: *x\n", "run.yaml").find(("b",))
    assert (values(node), node.origin) == ([1, 2], "run.yaml:2")


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\n\n"])
def test_an_empty_document_has_no_options(text):
    assert read_options(text, "run.yaml").value == {}


def test_duplicate_keys_and_tags_are_reported_together():
    assert problems("a: 1\nb:\n  c: 1\n  c: 2\na: !!python/object/apply:os.system [x]\n") == [
        "'c' is set twice, first at run.yaml:3 (run.yaml:4:3)",
        "'a' is set twice, first at run.yaml:1 (run.yaml:5:1)",
        "tags are not allowed: tag:yaml.org,2002:python/object/apply:os.system (run.yaml:5:4)",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n\tb: 2\n", "indent with spaces, not tabs (run.yaml:2:1)"),
        ("a: [1\nb: 2\n", "(run.yaml:2:2)"),
        ("a: 1\n---\nb: 2\n", "a second document; keep one (run.yaml:2:1)"),
        ("- 1\n", "expected lines such as 'method: NAME' (run.yaml:1)"),
        ("? [a]\n: 1\n", "a key must be a single word or text (run.yaml:1:3)"),
        ("a: !x 1\n", "tags are not allowed: !x (run.yaml:1:4)"),
        ("a: *b\n", "no anchor '&b' is complete before this alias (run.yaml:1:4)"),
        ("a: &b [*b]\n", "no anchor '&b' is complete before this alias (run.yaml:1:8)"),
        ("a: 1\nb: \x07\n", "control character '\\x07' (run.yaml:2)"),
        ("a: " + "[" * 50, "nested deeper than 32 levels (run.yaml:1:35)"),
        ("a: " + "9" * 500, "a number of 500 digits is too long (run.yaml:1:4)"),
        ("a: &a 1\nb: [" + "*a, " * 101 + "]", "more than 100 aliases (run.yaml:2:405)"),
    ],
)
def test_what_is_not_our_yaml_is_refused_in_one_line_with_its_place(text, message):
    assert len(problems(text)) == 1
    assert problems(text)[0].endswith(message)


def test_aliases_cannot_stand_for_a_billion_values():
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    assert problems("\n".join(["a0: &a0 [1]", *levels]))[0].startswith("more than 10,000 values (run.yaml:5")


def test_aliases_cannot_nest_deeper_than_the_limit():
    levels = [f"a{i}: &a{i} [[[[[[[[*a{i - 1}]]]]]]]]" for i in range(1, 10)]
    assert problems("\n".join(["a0: &a0 [1]", *levels]))[0].startswith("nested deeper than 32 levels")


def test_written_text_reads_back(any_text):
    line = f"a: {write_flow(any_text)}\nb: [{write_flow(any_text)}, 1]\n"
    expected = any_text.replace("${", "$${")
    assert values(read_document(line, "f")) == {"a": expected, "b": [expected, 1]}


@pytest.mark.parametrize("number", [0, -1, 10**30, 0.1, 1e-8, 1e300, -2.5e-300, 1e16, float("inf"), True, None])
def test_written_scalars_read_back(number):
    value = read_document(f"a: {write_flow(number)}", "f").find(("a",)).value
    assert (type(value), value) == (type(number), number)


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes("\ufeffa: é\n".encode())
    assert values(read_file(path)) == {"a": "é"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [(b"a: 1\nb: \xff\n", "not UTF-8 text; save the file as UTF-8"), (b"a" * 1_000_001, "larger than 1,000,000 bytes")],
)
def test_a_file_that_is_not_text_or_too_large_is_refused(tmp_path, raw, message):
    path = tmp_path / "run.yaml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=message):
        read_file(path)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_file(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="not a file"):
        read_file(Path(tmp_path))
