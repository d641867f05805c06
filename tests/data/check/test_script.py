"""The script that mends: harmless until it is read and run, and then the defects are gone."""

import random
import shlex
import subprocess

import pytest
from seeded import IN_FILES, draw_photo, look_at, make_set, places

from sdtune.data.check.script import JUDGEMENTS, set_aside_folder, write_script

MENDED = {
    "corrupt", "cut-off", "unknown-format", "too-small", "bad-name", "wrong-extension", "exact-duplicate", "same-stem",
    "case-names", "undecodable-caption", "caption-extension", "orphan-caption", "several-lines",
    "repeated-tag", "blank",
}  # fmt: skip
JUDGED = {kind.name for kind in JUDGEMENTS}
NAMES = ['it\'s "here"', "$(touch owned)", "-rf", "a\nb", "`touch owned`", "测试 🐶", "; touch owned #", "%s \\n"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{number:02d}.png" for number in range(30)]
    for number, path in enumerate(paths):
        draw_photo(number, 160).save(path)
    return paths


def run(script, tmp_path):
    place = tmp_path / "mend.sh"
    place.write_text(script, encoding="utf-8")
    return subprocess.run(["sh", place], cwd=tmp_path, check=True, capture_output=True, text=True)


def uncommented(script):
    """Agree with every command that is left to the user."""
    functions = ("set_aside ", "replace_word ", "put_first ")
    return "".join(
        line.removeprefix("# ") if line[2:].startswith(functions) else line for line in script.splitlines(True)
    )


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_it_mends_is_gone(photos, tmp_path):
    data = make_set(tmp_path / "data", photos, px=128)
    defects = {kind: IN_FILES[kind](data) for kind in sorted(MENDED)}
    before = look_at(data)
    assert defects.keys() <= {finding.kind.name for finding in before.findings}
    run(write_script(before), tmp_path)
    after = look_at(data)
    assert {finding.kind.name for finding in after.findings} & MENDED == set()
    assert after.count("error") == 0


def test_what_is_for_the_user_to_judge_is_a_comment(photos, tmp_path):
    data = make_set(tmp_path / "data", photos, px=128)
    for kind in sorted(JUDGED):
        IN_FILES[kind](data)
    before, files = look_at(data), files_below(data.root)
    run(write_script(before), tmp_path)
    assert files_below(data.root) == files
    run(uncommented(write_script(before)), tmp_path)
    assert {finding.kind.name for finding in look_at(data).findings} & JUDGED == set()


def test_nothing_is_deleted(photos, tmp_path):
    data = make_set(tmp_path / "data", photos, px=128)
    for kind in sorted(MENDED - {"bad-name"}):
        IN_FILES[kind](data)
    contents = {path.read_bytes() for path in files_below(data.root)}
    run(write_script(look_at(data)), tmp_path)
    left = {path.read_bytes() for folder in (data.root, set_aside_folder(data.root)) for path in files_below(folder)}
    assert contents <= left


def test_running_it_twice_does_no_harm(photos, tmp_path):
    data = make_set(tmp_path / "data", photos, px=128)
    for kind in sorted(MENDED):
        IN_FILES[kind](data)
    script = write_script(look_at(data))
    run(script, tmp_path)
    once = {path: path.read_bytes() for path in files_below(data.root)}
    run(script, tmp_path)
    assert {path: path.read_bytes() for path in files_below(data.root)} == once


@pytest.mark.parametrize("name", NAMES)
def test_names_are_quoted(name, photos, tmp_path):
    data = make_set(tmp_path / f"data {name}".replace("/", " "), photos[:6], px=128)
    for image in (photos[0], photos[1]):
        (data.folder / f"{name}{image.name}").write_bytes(image.read_bytes())
    (data.folder / f"{name}.txt").write_text("lost")
    script = write_script(look_at(data))
    run(script, tmp_path)
    assert not list(tmp_path.rglob("owned*"))
    assert not {f"{name}.txt", f"{name}00.png"} & {path.name for path in files_below(data.root)}
    assert f"{name}.txt" in {path.name for path in files_below(set_aside_folder(data.root))}


def test_its_comment_says_what_it_does(photos, tmp_path):
    data = make_set(tmp_path / "data", photos[:6], px=128)
    IN_FILES["corrupt"](data)
    head = write_script(look_at(data)).partition("\nset -eu")[0]
    assert "1 times set aside" in head
    assert str(set_aside_folder(data.root)) in head


def test_a_clean_set_has_an_empty_script(photos, tmp_path):
    data = make_set(tmp_path / "data", photos[:6], px=128)
    files = files_below(data.root)
    run(write_script(look_at(data)), tmp_path)
    assert files_below(data.root) == files


def test_every_command_is_one_line_of_quoted_words(photos, tmp_path):
    data = make_set(tmp_path / "data", photos, px=128, name="10_it's $HOME")
    draws = random.Random(0)
    for kind in draws.sample(sorted(MENDED), 8):
        IN_FILES[kind](data)
    found = look_at(data)
    commands = [shlex.join(finding.script) for finding in found.findings if finding.script]
    assert commands
    assert all(places(found, finding.kind.name) for finding in found.findings)
