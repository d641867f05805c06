import os
import stat
from pathlib import Path

import pytest
import torch

from sdtune.config.cache import CacheOptions
from sdtune.data.tensor_store import DiskStore, RamStore, cache_folder, content_key, open_store
from sdtune.errors import PlatformError
from sdtune.files import writing

KEY = content_key("a")


@pytest.fixture
def disk(tmp_path):
    return DiskStore(tmp_path / "cache")


@pytest.fixture(params=["disk", "ram"])
def store(request, tmp_path):
    return open_store(request.param, "latents", CacheOptions(dir=tmp_path))


@pytest.fixture
def entry():
    return {"mean": torch.randn(4, 3, 2), "std": torch.rand(4, 3, 2).to(torch.bfloat16)}


def test_entries_come_back_to_the_last_bit(store, entry):
    store.save(KEY, entry)
    again = store.load(KEY)
    assert again.keys() == entry.keys()
    assert all(torch.equal(again[name], entry[name]) and again[name].dtype == entry[name].dtype for name in entry)


def test_unknown_key_gives_nothing(store):
    assert store.load(KEY) is None


def test_kept_entry_does_not_follow_the_tensor(store, entry):
    before = entry["mean"].clone()
    store.save(KEY, entry)
    entry["mean"].zero_()
    assert torch.equal(store.load(KEY)["mean"], before)


def test_entry_outlives_the_store(disk, entry):
    disk.save(KEY, entry)
    assert torch.equal(DiskStore(disk.folder).load(KEY)["mean"], entry["mean"])


def test_file_lies_where_it_should(disk, entry):
    disk.save(KEY, entry)
    path = disk.folder / KEY[:2] / f"{KEY}.safetensors"
    assert disk.path(KEY) == path
    assert [found for found in disk.folder.rglob("*") if found.is_file()] == [path]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def empty(path):
    path.write_bytes(b"")


def flip_bit(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)


def swap_names(path):
    path.write_bytes(path.read_bytes().replace(b'"mean"', b'"naem"'))


@pytest.mark.parametrize("damage", [cut, empty, flip_bit, swap_names])
def test_damaged_entry_is_dropped(disk, entry, damage):
    disk.save(KEY, entry)
    damage(disk.path(KEY))
    assert disk.load(KEY) is None
    assert not disk.path(KEY).exists()


def test_entry_of_another_key_is_dropped(disk, entry):
    other = content_key("b")
    disk.save(other, entry)
    disk.path(KEY).parent.mkdir(parents=True, exist_ok=True)
    disk.path(other).rename(disk.path(KEY))
    assert disk.load(KEY) is None


def test_folder_that_cannot_be_written_is_told(tmp_path, entry):
    (tmp_path / "cache").write_text("a file stands here")
    with pytest.raises(PlatformError, match=r"the cache is not kept: cannot write .*data.cache.dir"):
        DiskStore(tmp_path / "cache").save(KEY, entry)


def test_leftovers_of_killed_runs_are_swept_and_those_of_live_ones_kept(disk, entry):
    disk.save(KEY, entry)
    left = disk.path(KEY).with_name(".sdtune-0123.tmp")
    left.write_bytes(b"half")
    with writing(disk.path("ab")) as draft:
        DiskStore(disk.folder)
        assert draft.exists()
    assert not left.exists()


def test_keys_tell_parts_and_types_apart():
    keys = [content_key("ab", "c"), content_key("a", "bc"), content_key(1), content_key("1"), content_key(True)]
    assert len(set(keys)) == len(keys)


def test_cache_is_in_the_users_cache_folder_unless_told(tmp_path, monkeypatch):
    monkeypatch.delenv("SDTUNE_CACHE_DIR")
    assert cache_folder(CacheOptions(dir=tmp_path)) == tmp_path
    assert "sdtune" in cache_folder(CacheOptions()).parts
    assert cache_folder(CacheOptions(dir=Path("~/x"))) == Path("~/x").expanduser()


def test_ram_store_is_its_own():
    assert isinstance(open_store("ram", "text", CacheOptions()), RamStore)
