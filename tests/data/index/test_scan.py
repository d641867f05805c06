import os
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sdtune.data.digests import file_digest
from sdtune.data.index import scan as scan_module
from sdtune.data.index.scan import Scan
from sdtune.data.index.scan_memory import KnownImages, read_memory, write_memory
from sdtune.data.pictures.images import read_header
from sdtune.data.sources.listing import Files, list_folder
from sdtune.testing.images import draw_picture, write_images

SIZES = [(64, 48), (32, 32), (40, 64)]


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "dog", 5, sizes=SIZES)
    return tmp_path / "dog"


@pytest.fixture
def opened(monkeypatch):
    """List the files that are read, in place of how long it takes; files may be remembered at once."""
    found = []
    read = scan_module.read_file
    monkeypatch.setattr(scan_module, "read_file", lambda path: found.append(path.name) or read(path))
    monkeypatch.setattr(scan_module, "_RACY_NS", -(10**18))
    return found


def listing(folder):
    return list_folder(folder, folder.resolve())


def scan(folder, workers=0):
    found = Scan(folder.parent / "memory", workers).read_images(listing(folder).images)
    return [
        (int(row), header, digest)
        for row, header, digest in zip(found.rows, found.pictures.headers(), found.pictures.digests, strict=True)
    ]


def expected(folder):
    files = listing(folder).images
    return [(row, read_header(path), file_digest(path)) for row, path in enumerate(files)]


def texts(folder, stems, most_bytes=100):
    with Scan(folder.parent / "memory").texts(listing(folder).captions, most_bytes) as read:
        return [read(".txt", stem) for stem in stems]


def swap_same_stat(path, content):
    """Change a file's content, and nothing that a program would see without its status time."""
    before = path.stat()
    path.write_bytes(content[: before.st_size].ljust(before.st_size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("workers", [0, 3])
def test_a_scan_finds_what_each_file_says(folder, workers):
    assert scan(folder, workers) == expected(folder)
    assert scan(folder, workers) == expected(folder)


def test_many_files_are_read_in_order_by_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(scan_module, "_LARGE_BYTES", 0)
    write_images(tmp_path / "dog", 2, sizes=SIZES, caption=None)
    for number in range(200):
        shutil.copy(tmp_path / f"dog/{number % 2:02d}.png", tmp_path / f"dog/copy{number}.png")
    assert scan(tmp_path / "dog", 4) == scan(tmp_path / "dog", 0) == expected(tmp_path / "dog")


def test_what_has_not_changed_is_not_read_again(folder, opened):
    scan(folder)
    assert len(opened) == 5
    assert scan(folder) == expected(folder)
    assert len(opened) == 5


def test_only_what_changed_is_read_again(folder, opened):
    scan(folder)
    opened.clear()
    draw_picture((50, 50), seed=9).save(folder / "01.png")
    draw_picture((50, 50), seed=8).save(folder / "new.png")
    (folder / "03.png").unlink()
    assert scan(folder) == expected(folder)
    assert sorted(opened) == ["01.png", "new.png"]
    opened.clear()
    assert scan(folder) == expected(folder)
    assert opened == []


def test_files_that_changed_places_are_read_again(folder, opened):
    scan(folder)
    opened.clear()
    (folder / "01.png").rename(folder / "x")
    (folder / "04.png").rename(folder / "01.png")
    (folder / "x").rename(folder / "04.png")
    assert scan(folder) == expected(folder)
    assert sorted(opened) == ["01.png", "04.png"]


def test_an_edit_that_keeps_size_and_time_is_seen(folder, opened):
    first = folder / "01.png"
    second = draw_picture((64, 64), seed=77)
    scan(folder)
    time.sleep(0.02)  # a tick of the file system's clock
    second.save(folder.parent / "other.png")
    content = (folder.parent / "other.png").read_bytes()
    shutil.copy(folder.parent / "other.png", first)
    scan(folder)
    opened.clear()
    time.sleep(0.02)
    swap_same_stat(first, content[:-20] + b"\1" + content[-19:])
    assert scan(folder) == expected(folder)
    assert opened == ["01.png"]


def test_what_changed_just_now_is_read_again(folder, opened, monkeypatch):
    monkeypatch.setattr(scan_module, "_RACY_NS", 2 * 10**9)
    scan(folder)
    opened.clear()
    scan(folder)
    assert len(opened) == 5


def test_what_changes_while_it_is_read_is_not_remembered(folder, opened, monkeypatch):
    read = scan_module.read_file

    def slow(path):
        data = read(path)
        os.utime(path, ns=(0, 0))
        return data

    monkeypatch.setattr(scan_module, "read_file", slow)
    scan(folder)
    opened.clear()
    assert scan(folder) == expected(folder)
    assert len(opened) == 5


def test_what_cannot_be_read_is_told_each_time_and_the_rest_is_known(folder, opened):
    (folder / "02.png").write_bytes(b"no image")
    for _ in range(2):
        opened.clear()
        found = Scan(folder.parent / "memory").read_images(listing(folder).images)
        assert list(found.errors) == [2]
        assert found.rows.tolist() == [0, 1, 3, 4]
        assert found.pictures.digests[2] == file_digest(folder / "03.png")
    assert opened == ["02.png"]


def test_without_a_place_nothing_is_kept(folder, opened):
    files = listing(folder).images
    assert Scan().read_images(files).pictures.digests == Scan().read_images(files).pictures.digests
    assert len(opened) == 10
    assert not (folder.parent / "memory").exists()


@pytest.mark.parametrize("seed", range(8))
def test_a_spoilt_memory_is_made_anew(folder, opened, seed):
    scan(folder)
    (memory,) = (folder.parent / "memory").rglob("*.scan")
    whole, draws = memory.read_bytes(), random.Random(seed)
    spoilt = bytearray(whole)
    spoilt[draws.randrange(len(whole))] ^= 1 + draws.randrange(255)
    memory.write_bytes(draws.choice([spoilt, whole[: draws.randrange(len(whole))], b""]))
    assert scan(folder) == expected(folder)
    assert len(opened) == 10
    assert memory.read_bytes() == whole


def test_a_memory_that_cannot_be_written_costs_nothing_but_time(folder):
    (folder.parent / "memory").write_text("a file where a folder should be")
    assert scan(folder) == expected(folder)


def test_scans_at_once_leave_a_whole_memory(folder, opened):
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: scan(folder), range(24)))
    assert all(found == expected(folder) for found in results)
    opened.clear()
    assert scan(folder) == expected(folder)
    assert opened == []
    assert [path.suffix for path in (folder.parent / "memory").rglob("*") if path.is_file()] == [".scan"]


def test_what_a_killed_run_left_is_swept(folder, opened):
    scan(folder)
    draft = folder.parent / "memory/.sdtune-0123456789abcdef.tmp"
    draft.write_bytes(b"half")
    scan(folder)
    assert not draft.exists()


def test_another_folder_has_a_memory_of_its_own(folder, opened):
    shutil.copytree(folder, folder.parent / "cat")
    scan(folder)
    scan(folder.parent / "cat")
    assert len(opened) == 10
    scan(folder)
    scan(folder.parent / "cat")
    assert len(opened) == 10


def test_a_list_of_files_of_many_folders_is_remembered(folder, opened):
    shutil.copytree(folder, folder.parent / "cat")
    paths = [*sorted(folder.glob("*.png")), *sorted((folder.parent / "cat").glob("*.png"))]
    place = folder.parent / "memory"
    for _ in range(2):
        found = Scan(place).read_images(Files.of(paths))
        assert found.pictures.digests == [file_digest(path) for path in paths]
    assert len(opened) == 10


def test_a_missing_file_of_a_list_is_told(folder):
    found = Scan().read_images(Files.of([folder / "00.png", folder / "gone.png"]))
    assert "no file" in str(found.errors[1])


def test_texts_are_given_by_stem(folder):
    first, third = (folder / name for name in ("01.txt", "03.txt"))
    assert texts(folder, ["03", "01", "nothing"]) == [third.read_bytes(), first.read_bytes(), None]


def test_texts_are_read_once(folder, opened, monkeypatch):
    wanted = [path.read_bytes() for path in sorted(folder.glob("*.txt"))]
    stems = [f"{number:02d}" for number in range(5)]
    assert texts(folder, stems[:3]) == wanted[:3]
    assert texts(folder, stems) == wanted
    with monkeypatch.context() as patch:
        patch.setattr(scan_module._Texts, "_read", None)
        assert texts(folder, stems) == wanted
    (folder / "02.txt").write_bytes(b"\xff new")
    assert texts(folder, stems) == [*wanted[:2], b"\xff new", *wanted[3:]]
    with monkeypatch.context() as patch:
        patch.setattr(scan_module._Texts, "_read", None)
        assert texts(folder, ["02"]) == [b"\xff new"]


def test_of_a_long_text_no_more_is_read_than_asked_for(folder, opened):
    (folder / "01.txt").write_bytes(b"x" * 1000)
    assert texts(folder, ["01"], 7) == [b"x" * 7]


def test_what_is_kept_is_what_is_read(folder, tmp_path):
    files = listing(folder).images
    known = KnownImages.of_files(files, Scan().read_images(files).pictures)
    write_memory(tmp_path / "a.scan", known)
    again = read_memory(tmp_path / "a.scan", KnownImages)
    assert (again.names, again.pictures.digests) == (known.names, known.pictures.digests)
    assert list(again.pictures.headers()) == list(known.pictures.headers())
    assert again.rows(files).tolist() == [0, 1, 2, 3, 4]
