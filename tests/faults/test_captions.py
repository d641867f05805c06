"""Captions that are wrong, missing or too long (fault rows F39 to F41)."""

from __future__ import annotations

import codecs
import os
import subprocess
import sys

import pytest

import sdtune_lora
from sdtune.config.data import DataOptions
from sdtune.data.index.building import build_index
from sdtune.errors import DataError
from sdtune.testing.images import write_images
from sdtune.testing.runner import command
from sdtune.testing.tiny import tiny_sd1

GOOD = {
    "utf8.txt": codecs.BOM_UTF8 + "ein Hündchen".encode(),
    "utf16le.txt": codecs.BOM_UTF16_LE + "ein Hündchen".encode("utf-16-le"),
    "utf16be.txt": codecs.BOM_UTF16_BE + "ein Hündchen".encode("utf-16-be"),
    "crlf.txt": "ein Hündchen\r\n".encode(),
    "lines.txt": "ein Hündchen\r\nim Gras".encode(),
}
BAD = {
    "cp1252.txt": ("ein Hündchen".encode("cp1252"), "is not UTF-8 at byte 5"),
    "cp932.txt": ("犬の写真".encode("cp932"), "is not UTF-8 at byte 0"),
    "surrogate.txt": (b"dog \xed\xa0\x80", "is not UTF-8 at byte 4"),
    "surrogate16.txt": (codecs.BOM_UTF16_LE + b"a\0\0\xd8b\0", "is not UTF-16-LE at byte 4"),
    "nul.txt": (b"dog\0cat", "is no text: a NUL at byte 3"),
    "empty.txt": (b"", "is empty"),
    "spaces.txt": (b" \r\n\t", "is empty"),
    "large.txt": (b"x" * (1 << 20), "is longer than 8192 bytes"),
}
READ = """
import sys
from pathlib import Path
from sdtune.data.captions.files import read_caption
from sdtune.errors import SdtuneError
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        print(f"{path.name}: {read_caption(path.read_bytes(), path, [])!a}")
    except SdtuneError as error:
        print(f"{path.name}: {str(error)!a}")
"""


def write_all(folder, contents):
    write_images(folder, len(contents), caption=None)
    for picture, (name, data) in zip(sorted(folder.glob("*.png")), contents.items(), strict=True):
        stem = name.removesuffix(".txt")
        picture.rename(folder / f"{stem}.png")
        (folder / name).write_bytes(data)


def test_f39_unicode_of_any_kind_is_read(tmp_path):
    write_all(tmp_path, GOOD)
    found = build_index(DataOptions(path=tmp_path))
    assert {record.caption for record in found.images} == {"ein Hündchen"}
    assert any("1 captions" in note and "several lines, the first is used" in note for note in found.notes)


def test_f39_all_bad_captions_are_told_at_once_with_file_and_byte(tmp_path):
    write_all(tmp_path, {name: data for name, (data, _) in BAD.items()} | GOOD)
    with pytest.raises(DataError) as caught:
        build_index(DataOptions(path=tmp_path))
    told = [problem.message for problem in caught.value.problems]
    assert caught.value.exit_code == 3
    assert len(told) == len(BAD)
    assert all(any(f"{name} {text}" in message for message in told) for name, (_, text) in BAD.items())


@pytest.mark.parametrize("locale", [{"PYTHONUTF8": "0", "LC_ALL": "C"}, {"PYTHONUTF8": "1"}], ids=["C", "UTF-8"])
def test_f39_the_code_page_of_the_machine_is_never_asked(tmp_path, locale):
    contents = GOOD | {name: data for name, (data, _) in BAD.items()}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    environment = {**{name: value for name, value in os.environ.items() if not name.startswith("LC_")}, **locale}
    words = [sys.executable, "-X", "warn_default_encoding", "-W", "error", "-c", READ, str(tmp_path)]
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    wanted = dict.fromkeys(GOOD, "ein Hündchen") | {"lines.txt": "ein Hündchen\nim Gras"}
    assert len(said) == len(contents)
    assert [line for line in said if line.split(": ")[0] in GOOD] == [f"{n}: {wanted[n]!a}" for n in sorted(wanted)]


def test_f40_captions_that_are_missing_are_counted_and_named(tmp_path):
    write_images(tmp_path, 32)
    (tmp_path / "07.txt").unlink()
    with pytest.raises(DataError, match=r"no caption for 1 of 32 images in .*: 07\.png; write them, or choose"):
        build_index(DataOptions(path=tmp_path))


def test_f40_no_captions_at_all_offer_all_choices(tmp_path):
    write_images(tmp_path, 32, caption=None)
    with pytest.raises(DataError, match=r"0 of 32 images .* have a \.txt or \.caption file; write them, or choose"):
        build_index(DataOptions(path=tmp_path))


def test_f40_captions_without_an_image_are_counted(tmp_path):
    write_images(tmp_path, 2)
    for name in ("08.txt", "09.txt", "09.caption"):
        (tmp_path / name).write_text("a dog")
    notes = build_index(DataOptions(path=tmp_path)).notes
    assert any("1 .caption without an image, 2 .txt without an image" in note for note in notes)


def test_f40_the_other_kind_of_caption_file_is_named(tmp_path):
    write_images(tmp_path, 32)
    with pytest.raises(DataError, match=r"found 32 \.txt, and data\.captions is caption; choose data\.captions=txt"):
        build_index(DataOptions(path=tmp_path, captions="caption"))


@pytest.mark.parametrize("choice", ["empty", "filename", "skip"])
def test_f40_a_choice_is_followed_and_told(tmp_path, choice):
    write_images(tmp_path, 32)
    (tmp_path / "07.txt").unlink()
    found = build_index(DataOptions(path=tmp_path, missing_captions=choice))
    assert len(found.images) == (31 if choice == "skip" else 32)
    assert any("1 of 32 images" in note and "have no caption" in note for note in found.notes)


@pytest.mark.slow
def test_f41_long_captions_are_counted_and_the_longest_shown(tmp_path, capsys):
    write_images(tmp_path / "data", 3, caption="a dog")
    (tmp_path / "data" / "01.txt").write_text("a dog, " * 30 + "the last words")
    (tmp_path / "data" / "02.txt").write_text("a dog, " * 26)
    model = tiny_sd1(tmp_path / "model")
    words = ("train.steps=1", "data.resolution=64", f"output.dir={tmp_path / 'out'}", "log.forecast=false")
    code = command(
        [sdtune_lora], "plan", "--method", "lora", "--model", str(model), "--data", str(tmp_path / "data"), *words
    )
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "too long" in line]
    assert code == 0
    assert "2 of 3 captions too long for 75 tokens, and cut; 01.png loses 24 of 99, 'a dog, a dog" in note
    assert "the last words'; model.chunks=2 reads more" in note
