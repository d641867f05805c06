import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from sdtune.config.cache import CacheOptions
from sdtune.data.caches import tensor_store
from sdtune.data.caches.lock import held_alone
from sdtune.data.caches.shards import read_shard
from sdtune.data.caches.tensor_store import (
    RamStore,
    ShardStore,
    cache_folder,
    content_key,
    distinct,
    list_shards,
    open_store,
    pack_keys,
)
from sdtune.errors import PlatformError
from sdtune.files import writing

KEY, OTHER = content_key("a"), content_key("b")
KEYS = [content_key(number) for number in range(10)]


@pytest.fixture
def disk(tmp_path):
    return ShardStore(tmp_path / "cache")


@pytest.fixture(params=["disk", "ram"])
def store(request, tmp_path):
    return open_store(request.param, "latents", CacheOptions(dir=tmp_path))


@pytest.fixture
def entry():
    return {"mean": torch.randn(4, 3, 2), "std": torch.rand(4, 3, 2).to(torch.bfloat16)}


def fill(store, keys=KEYS):
    for key in keys:
        store.save(key, {"a": torch.full((5,), float(int(key[:4], 16)))})
    store.flush()


def missing(store, keys=KEYS):
    return [keys[place] for place in store.missing(pack_keys(keys))]


def flip_bit(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def place_of(folder, key):
    """Give shard and first byte of a key's entry."""
    shards = [read_shard(path) for path in list_shards(folder)]
    found = [(it.path, row[2]) for it in shards for row in it.index if row[:2].tobytes() == bytes.fromhex(key)]
    return found[0]


def test_entries_come_back_to_the_last_bit(store, entry):
    store.save(KEY, entry)
    again = store.load(KEY)
    assert again.keys() == entry.keys()
    assert all(torch.equal(again[name], entry[name]) and again[name].dtype == entry[name].dtype for name in entry)


def test_unknown_key_gives_nothing(store):
    assert store.load(KEY) is None
    assert missing(store, [KEY]) == [KEY]


def test_kept_entry_does_not_follow_the_tensor(store, entry):
    before = entry["mean"].clone()
    store.save(KEY, entry)
    entry["mean"].zero_()
    assert torch.equal(store.load(KEY)["mean"], before)


def test_what_is_there_is_not_missing(store):
    fill(store, KEYS[::2])
    assert missing(store) == KEYS[1::2]


def test_entries_that_were_flushed_outlive_the_store(disk, entry):
    disk.save(KEY, entry)
    assert ShardStore(disk.folder).load(KEY) is None
    disk.flush()
    assert torch.equal(ShardStore(disk.folder).load(KEY)["mean"], entry["mean"])


def test_open_shard_can_be_read(disk):
    disk.save(KEY, {"a": torch.ones(3)})
    assert missing(disk, [KEY]) == []
    assert disk.load(KEY)["a"].tolist() == [1, 1, 1]
    assert not list_shards(disk.folder)


def test_full_shards_are_written_at_once(tmp_path):
    store = ShardStore(tmp_path, entries=4)
    fill(store)
    assert sorted(len(read_shard(path).index) for path in list_shards(tmp_path)) == [2, 4, 4]


@pytest.mark.parametrize("limit", ["SHARD_BYTES", "SHARD_SECONDS"])
def test_a_shard_is_full_by_bytes_and_by_time_too(disk, monkeypatch, limit):
    monkeypatch.setattr(tensor_store, limit, 0)
    disk.save(KEY, {"a": torch.ones(3)})
    assert len(list_shards(disk.folder)) == 1


def test_flushing_nothing_writes_nothing(disk):
    disk.flush()
    assert not disk.folder.exists()


def test_several_stores_write_at_once(tmp_path):
    first, second = ShardStore(tmp_path), ShardStore(tmp_path)
    fill(first, KEYS[:6])
    fill(second, KEYS[4:])
    assert missing(first) == missing(second) == []
    assert second.load(KEYS[0]) is not None


def test_what_another_process_writes_meanwhile_is_found(tmp_path):
    reader = ShardStore(tmp_path)
    assert reader.load(KEYS[0]) is None
    fill(ShardStore(tmp_path))
    assert reader.load(KEYS[0]) is not None


def test_bit_flip_spoils_one_entry_alone(disk):
    fill(disk)
    flip_bit(*place_of(disk.folder, KEYS[3]))
    assert disk.load(KEYS[3]) is None
    assert missing(ShardStore(disk.folder)) == [KEYS[3]]


def test_entry_that_was_computed_again_counts_beside_the_damaged_one(disk):
    fill(disk)
    flip_bit(*place_of(disk.folder, KEYS[3]))
    fill(disk, [KEYS[3]])
    assert missing(disk) == missing(ShardStore(disk.folder)) == []
    assert disk.load(KEYS[3]) is not None


def test_cut_shard_keeps_what_is_left_of_it(disk):
    fill(disk)
    path, start = place_of(disk.folder, KEYS[6])
    path.write_bytes(path.read_bytes()[: start + 1])
    assert missing(ShardStore(disk.folder)) == KEYS[6:]


@pytest.mark.parametrize("place", [0, 3, 20, 200, 400])
def test_damaged_index_is_not_believed(disk, place):
    fill(disk)
    flip_bit(list_shards(disk.folder)[0], place)
    assert missing(ShardStore(disk.folder)) == KEYS


def test_foreign_schema_version_is_left_alone(disk):
    fill(disk)
    path = list_shards(disk.folder)[0]
    path.write_bytes(path.read_bytes().replace(b'"sdtune_cache": "2"', b'"sdtune_cache": "9"'))
    before = path.read_bytes()
    again = ShardStore(disk.folder)
    assert missing(again) == KEYS
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0[]", b"\x04\0\0\0\0\0\0\0null"])
def test_file_that_is_no_shard_is_passed_over(disk, content):
    fill(disk)
    (disk.folder / f"{'0' * 32}.safetensors").write_bytes(content)
    assert missing(ShardStore(disk.folder)) == []


def test_deleted_shard_is_noticed(disk):
    fill(disk)
    assert disk.load(KEYS[0]) is not None
    list_shards(disk.folder)[0].unlink()
    assert disk.load(KEYS[0]) is None


def test_threads_read_at_once(disk):
    fill(disk)
    reader, found = ShardStore(disk.folder), []
    threads = [threading.Thread(target=lambda: found.extend(map(reader.load, KEYS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    assert all(found)


def test_index_takes_less_than_a_hundred_bytes_an_entry(disk):
    fill(disk)
    store = ShardStore(disk.folder)
    missing(store)
    assert store.index_bytes / len(KEYS) <= 64


def test_folder_that_cannot_be_written_is_told(tmp_path, entry):
    (tmp_path / "cache").write_text("a file stands here")
    store = ShardStore(tmp_path / "cache")
    store.save(KEY, entry)
    with pytest.raises(PlatformError, match=r"the cache is not kept: cannot write .*data.cache.dir"):
        store.flush()


def test_leftovers_of_killed_runs_are_swept_and_those_of_live_ones_kept(disk):
    fill(disk)
    left = disk.folder / ".sdtune-0123.tmp"
    left.write_bytes(b"half")
    with writing(disk.folder / "ab") as draft:
        ShardStore(disk.folder)
        assert draft.exists()
    assert not left.exists()


def test_cache_in_use_is_not_cleared_up(disk):
    fill(disk)
    with pytest.raises(PlatformError, match="a run uses the cache"), held_alone(disk.folder):
        pass
    del disk


def test_cache_out_of_use_may_be_cleared_up(tmp_path):
    fill(ShardStore(tmp_path))
    with held_alone(tmp_path):
        assert list_shards(tmp_path)


def test_keys_tell_parts_and_types_apart():
    keys = [content_key("ab", "c"), content_key("a", "bc"), content_key(1), content_key("1"), content_key(True)]
    assert len(set(keys)) == len(keys)


def test_distinct_keys_keep_their_first_places():
    keys = [KEYS[0], KEYS[1], KEYS[0], KEYS[2], KEYS[1]]
    assert distinct(pack_keys(keys)).tolist() == [0, 1, 3]
    assert distinct(pack_keys([])).tolist() == []


def test_packed_keys_hold_the_bytes_of_the_text():
    assert pack_keys(KEYS).dtype == np.int64
    assert [key.tobytes().hex() for key in pack_keys(KEYS)] == KEYS


def test_cache_is_in_the_users_cache_folder_unless_told(tmp_path, monkeypatch):
    monkeypatch.delenv("SDTUNE_CACHE_DIR")
    assert cache_folder(CacheOptions(dir=tmp_path)) == tmp_path
    assert "sdtune" in cache_folder(CacheOptions()).parts
    assert cache_folder(CacheOptions(dir=Path("~/x"))) == Path("~/x").expanduser()


def test_ram_store_is_its_own():
    assert isinstance(open_store("ram", "text", CacheOptions()), RamStore)
