"""What a folder of images does between two readings of it."""

import os
import shutil
import signal

import pytest

from sdtune.config.cache import CacheOptions
from sdtune.config.data import DataOptions
from sdtune.data.index import scan
from sdtune.data.index.building import build_index
from sdtune.testing.images import draw_picture, write_images


@pytest.fixture(autouse=True)
def _remembers_at_once(monkeypatch):
    monkeypatch.setattr(scan, "_RACY_NS", -(10**18))


def read(folder, cache):
    return build_index(DataOptions(path=folder, cache=CacheOptions(dir=cache)))


def test_f44_an_edit_with_the_same_size_and_time_is_seen(tmp_path):
    write_images(tmp_path / "dog", 2)
    path, picture = tmp_path / "dog/00.png", tmp_path / "other.bmp"
    draw_picture((64, 64), seed=5).convert("RGB").save(path.with_suffix(".bmp"))
    path.unlink()
    path = path.with_suffix(".bmp")
    draw_picture((64, 64), seed=6).convert("RGB").save(picture)
    before, stat = read(tmp_path / "dog", tmp_path / "cache"), path.stat()
    path.write_bytes(picture.read_bytes())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    after = read(tmp_path / "dog", tmp_path / "cache")
    assert after.digest != before.digest
    assert after.digest == read(tmp_path / "dog", tmp_path / "empty").digest


def test_f44_an_edited_caption_of_the_same_size_and_time_is_seen(tmp_path):
    write_images(tmp_path / "dog", 2, caption="a dog")
    path = tmp_path / "dog/00.txt"
    read(tmp_path / "dog", tmp_path / "cache")
    stat = path.stat()
    path.write_text("a cat")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert list(read(tmp_path / "dog", tmp_path / "cache").images.captions) == ["a cat", "a dog"]


@pytest.mark.slow
def test_a_reading_that_is_killed_leaves_a_memory_old_or_new(tmp_path):
    write_images(tmp_path / "dog", 30)
    wanted = read(tmp_path / "dog", tmp_path / "whole").digest
    for number in range(20):
        pid = os.fork()
        if not pid:
            signal.setitimer(signal.ITIMER_REAL, 0.002 * (number + 1))  # SIGALRM ends a process that does not ask
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            read(tmp_path / "dog", tmp_path / "cache")
            os._exit(0)
        os.waitpid(pid, 0)
        assert read(tmp_path / "dog", tmp_path / "cache").digest == wanted
        if number % 3 == 2:
            shutil.rmtree(tmp_path / "cache")
