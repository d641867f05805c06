import os
import random
import re
import unicodedata

import numpy as np
import pytest

from sdtune.data.sources.listing import list_folder, natural_key, stem_key, stem_of, suffix_of
from sdtune.errors import DataError

NAMES = ["2.jpg", "10.jpg", "1.png", "b.webp", "a10b.png", "a9b.png", "A9B.png", "002.jpg", "ä.jpg", "x.y.gif"]


def listing(path):
    return list_folder(path, path.resolve())


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def slow_key(text):
    """Sort by a list of parts, texts before numbers, numbers by value."""
    parts = re.findall(r"\d+|\D+", text.casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], text


def test_images_are_in_natural_order(tmp_path):
    found = listing(touch(tmp_path / "a", *NAMES)).images
    assert list(found) == sorted((tmp_path / "a").iterdir(), key=lambda path: slow_key(path.name))


def test_the_natural_key_sorts_as_a_list_of_parts_does():
    draws = random.Random(0)
    letters = "ab A_-.0129٣ä犬"
    names = ["".join(draws.choices(letters, k=draws.randint(1, 8))) for _ in range(3000)]
    assert sorted(names, key=natural_key) == sorted(names, key=slow_key)


def test_files_read_as_a_list_of_paths(tmp_path):
    found = listing(touch(tmp_path / "a", *NAMES)).images
    paths = list(found)
    assert (len(found), found[3], found[-1], list(found[2:5])) == (len(paths), paths[3], paths[-1], paths[2:5])
    assert list(found.names) == [path.name for path in paths]
    assert found.stems() == [stem_key(path) for path in paths]


def test_facts_are_those_of_the_files(tmp_path):
    found = listing(touch(tmp_path / "a", *NAMES)).images
    stats = [path.stat() for path in found]
    assert found.facts.tolist() == [[s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for s in stats]


def test_captions_are_found_by_stem(tmp_path):
    decomposed = unicodedata.normalize("NFD", "ä")
    found = listing(touch(tmp_path / "a", "1.txt", f"{decomposed}.txt", "1.caption", "1.jpg")).captions
    assert dict(found[".txt"]) == {"1": tmp_path / "a/1.txt", "ä": tmp_path / f"a/{decomposed}.txt"}
    assert dict(found[".caption"]) == {"1": tmp_path / "a/1.caption"}
    assert found[".txt"].files[found[".txt"].row("1")] == tmp_path / "a/1.txt"
    assert (found[".txt"].row("2"), "2" in found[".txt"]) == (None, False)


def test_what_is_of_no_use_is_counted(tmp_path):
    (tmp_path / "a/sub").mkdir(parents=True)
    (tmp_path / "a/__MACOSX").mkdir()
    found = listing(touch(tmp_path / "a", ".hidden.jpg", "x.npz", "noend", "1.jpg"))
    assert found.ignored == {"hidden": 2, "other": 2}
    assert found.folders == (tmp_path / "a/sub",)


@pytest.mark.parametrize("name", ["a.png", ".png", "a.", "a", "a.b.png", "..png", "a.PNG", "ä.x"])
def test_suffixes_and_stems_are_those_of_paths(tmp_path, name):
    path = tmp_path / name
    assert (suffix_of(name), stem_of(name)) == (path.suffix, unicodedata.normalize("NFC", path.stem))


def test_links_inside_the_folder_are_files_and_others_are_refused(tmp_path):
    folder = touch(tmp_path / "a", "1.jpg")
    (folder / "2.jpg").symlink_to("1.jpg")
    assert [path.name for path in listing(folder).images] == ["1.jpg", "2.jpg"]
    assert (listing(folder).images.facts[0] == listing(folder).images.facts[1]).all()
    (folder / "3.txt").symlink_to(touch(tmp_path / "b", "3.txt") / "3.txt")
    with pytest.raises(DataError, match=r"3\.txt is a link to outside its folder"):
        listing(folder)


def test_all_that_is_wrong_is_told_in_natural_order(tmp_path):
    folder = touch(tmp_path / "a", "10.jxl", "9.psd", "line\nbreak.jpg")
    os.mkfifo(folder / "1.png")
    (folder / "2.png").symlink_to("nothing")
    (folder / "3.png").symlink_to("3.png")
    with pytest.raises(DataError) as raised:
        listing(folder)
    told = [problem.message.replace(str(folder), "") for problem in raised.value.problems]
    assert [text.split(" ")[0] for text in told] == ["the", "/1.png", "/2.png", "/3.png", "/9.psd:", "/10.jxl:"]


def test_names_that_are_no_text_are_refused(tmp_path):
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff.jpg", os.O_CREAT))
    with pytest.raises(DataError, match=r"udcff.*is not plain text"):
        listing(tmp_path)


def test_a_folder_that_cannot_be_listed_is_told(tmp_path):
    with pytest.raises(DataError, match=r"cannot list .*nothing"):
        list_folder(tmp_path / "nothing", tmp_path)


def test_an_empty_folder_has_no_files(tmp_path):
    found = listing(tmp_path)
    assert (list(found.images), dict(found.captions[".txt"]), found.images.facts.shape) == ([], {}, (0, 4))
    assert not found.images
    assert found.images.facts.dtype == np.int64
