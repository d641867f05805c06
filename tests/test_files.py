import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdtune import files
from sdtune.errors import ConfigError, PlatformError
from sdtune.files import (
    copy_file,
    hash_file,
    remove_folder,
    show_bytes,
    sweep_drafts,
    write_bytes,
    write_text,
    writing,
    writing_folder,
)

NAMES = ["plain.txt", "with space.txt", "猫.txt", "🐶 dog.txt", "שלום.txt", "trailing dot.", "a" * 251 + ".txt"]


def _write_half(path):
    path.write_bytes(b"ne")
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", NAMES)
def test_every_valid_name_round_trips(tmp_path, name):
    assert write_text(tmp_path / name, "héllo\n").read_text("utf-8") == "héllo\n"


def test_mode_follows_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        path = write_bytes(tmp_path / "a", b"x")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o644


def test_missing_parents_are_made(tmp_path):
    assert write_bytes(tmp_path / "a" / "b" / "c", b"x").read_bytes() == b"x"


def test_existing_file_is_left_unasked(tmp_path):
    path = write_bytes(tmp_path / "a", b"old")
    with pytest.raises(ConfigError, match="--overwrite"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"


def test_existing_file_is_replaced_when_asked(tmp_path):
    path = write_bytes(tmp_path / "a", b"old")
    assert write_bytes(path, b"new", overwrite=True).read_bytes() == b"new"


def test_file_that_appears_meanwhile_is_left(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(ConfigError), writing(path):
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_error_while_writing_leaves_the_old_file_alone(tmp_path):
    path = write_bytes(tmp_path / "a", b"old")
    with pytest.raises(KeyboardInterrupt), writing(path, overwrite=True) as draft:
        _write_half(draft)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_killed_writer_leaves_the_old_file_alone(tmp_path):
    path = write_bytes(tmp_path / "a", b"old")
    script = "import os, sys, pathlib; from sdtune.files import writing\n" + (
        "with writing(pathlib.Path(sys.argv[1]), overwrite=True) as draft:\n    draft.write_bytes(b'ne'); os._exit(9)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert killed.returncode == 9
    assert path.read_bytes() == b"old"


def test_full_disk_is_a_platform_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PlatformError, match="No space left"):
        write_bytes(tmp_path / "a", b"x")
    assert not list(tmp_path.iterdir())


def test_file_system_without_hard_links_is_served_too(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    assert write_bytes(tmp_path / "a", b"x").read_bytes() == b"x"
    with pytest.raises(ConfigError):
        write_bytes(tmp_path / "a", b"y")


def test_parent_that_is_a_file_is_a_platform_error(tmp_path):
    parent = write_bytes(tmp_path / "a", b"x")
    with pytest.raises(PlatformError, match="cannot write"):
        write_bytes(parent / "b", b"x")


def test_name_too_long_is_a_platform_error(tmp_path):
    with pytest.raises(PlatformError, match="too long"):
        write_bytes(tmp_path / ("a" * 256), b"x")


def test_copy_has_the_same_hash(tmp_path):
    source = write_bytes(tmp_path / "a", os.urandom(3_000_000))
    assert hash_file(copy_file(source, tmp_path / "b")) == hash_file(source)


def test_hash_can_skip_a_header(tmp_path):
    whole, tail = write_bytes(tmp_path / "a", b"headerbody"), write_bytes(tmp_path / "b", b"body")
    assert hash_file(whole, skip_bytes=6) == hash_file(tail)


def test_folder_appears_whole(tmp_path):
    with writing_folder(tmp_path / "a") as draft:
        (draft / "sub").mkdir()
        (draft / "sub" / "file").write_bytes(b"x")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a" / "sub" / "file").read_bytes() == b"x"


def test_folder_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), writing_folder(tmp_path / "a") as draft:
        _write_half(draft / "file")
    assert not list(tmp_path.iterdir())


def test_existing_folder_is_left(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ConfigError), writing_folder(tmp_path / "a"):
        pass


def test_only_drafts_are_swept(tmp_path):
    (tmp_path / "sub" / ".sdtune-0123.tmp").mkdir(parents=True)
    (tmp_path / ".sdtune-4567.tmp").write_text("half")
    (tmp_path / "sub" / "kept.txt").write_text("whole")
    sweep_drafts(tmp_path, is_alone=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kept.txt", "sub"]


def test_drafts_of_this_process_are_left_where_others_write_too(tmp_path):
    (tmp_path / ".sdtune-0123.tmp").touch()
    with writing(tmp_path / "a") as file, writing_folder(tmp_path / "b") as folder:
        sweep_drafts(tmp_path, is_alone=False)
        assert sorted(tmp_path.iterdir()) == sorted([file, folder])


def test_only_the_folder_itself_is_swept_when_asked(tmp_path):
    deep = tmp_path / "sub" / ".sdtune-0123.tmp"
    deep.mkdir(parents=True)
    sweep_drafts(tmp_path, is_alone=True, depth="here")
    assert deep.exists()


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_when_asked(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    for text in ("old", "new"):
        with writing_folder(tmp_path / "a", overwrite=True) as draft:
            (draft / text).touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "new"]


def test_a_folder_is_removed_with_all_in_it(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    remove_folder(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_with_need_and_room(tmp_path):
    with (
        pytest.raises(PlatformError, match=r"make room: 1.5 GB are needed, .* are free"),
        writing(tmp_path / "a", size=1_500_000_000),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="tells files by their descriptors")
def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(tmp_path, monkeypatch):
    done = []
    sync, link = os.fsync, os.link
    monkeypatch.setattr(
        os, "fsync", lambda number: (done.append(str(Path(f"/proc/self/fd/{number}").readlink())), sync(number))
    )
    monkeypatch.setattr(os, "link", lambda old, new: (done.append("rename"), link(old, new)))
    write_bytes(tmp_path / "new" / "a", b"x")
    draft = done[1]
    assert done == [str(tmp_path), draft, "rename", str(tmp_path / "new")]
    assert ".sdtune-" in draft


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (1_234_567, "1.23 MB"),
        (999_999_999, "1 GB"),
        (2**50, "1.13e+03 TB"),
    ],
)
def test_bytes_are_spelt_with_three_digits(count, text):
    assert show_bytes(count) == text
