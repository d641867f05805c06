import os

import pytest
import torch

from sdtune.data.caches.shards import read_shard
from sdtune.data.caches.tensor_store import ShardStore, content_key, list_shards, pack_keys
from sdtune.data.caches.upkeep import SCAN, Removal, drop_damaged, examine, plan_removals, remove
from sdtune.errors import PlatformError

KEYS = [content_key(number) for number in range(12)]
DAY = 86_400
NOW = 100 * DAY


@pytest.fixture
def folder(tmp_path):
    """Give a cache of latents in three shards."""
    store = ShardStore(tmp_path / "latents", entries=4)
    for key in KEYS:
        store.save(key, {"a": torch.ones(50)})
    for days, path in enumerate(list_shards(tmp_path / "latents")):
        os.utime(path, (NOW - 10 * days * DAY,) * 2)
    return tmp_path / "latents"


def spoil(path, place=-9):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def missing(folder):
    return len(ShardStore(folder).missing(pack_keys(KEYS)))


def planned(root, **options):
    removals = plan_removals(root, **({"unused_days": 1000, "now": NOW} | options))
    return {removal.path: removal.why for removal in removals}


def test_sound_cache_is_found_sound(folder):
    findings = examine(folder)
    assert findings.is_sound
    assert findings.entries == 12
    assert findings.size_bytes == sum(path.stat().st_size for path in list_shards(folder))


def test_cache_that_is_not_there_is_empty(tmp_path):
    assert examine(tmp_path / "latents").entries == 0
    assert planned(tmp_path) == {}


def test_damaged_entries_are_found_and_dropped_and_the_others_stay(folder):
    spoil(list_shards(folder)[0])
    findings = examine(folder)
    assert (findings.entries, findings.damaged_entries, len(findings.damaged)) == (11, 1, 1)
    drop_damaged(folder, findings)
    assert examine(folder).is_sound
    assert examine(folder).entries == 11
    assert missing(folder) == 1


def test_shard_whose_index_is_damaged_is_dropped(folder):
    spoil(list_shards(folder)[1], 400)
    findings = examine(folder)
    assert findings.unreadable == (list_shards(folder)[1],)
    drop_damaged(folder, findings)
    assert examine(folder).is_sound
    assert missing(folder) == 4


def test_mending_keeps_the_time_of_last_use(folder):
    path = list_shards(folder)[2]
    spoil(path)
    os.utime(path, (NOW, NOW))
    drop_damaged(folder, examine(folder))
    new = next(path for path in list_shards(folder) if len(read_shard(path).index) == 3)
    assert new.stat().st_mtime == NOW


def test_shards_that_no_run_used_for_long_go(folder):
    first, second, third = list_shards(folder)
    assert planned(folder.parent, unused_days=15) == {third: "unused"}
    assert planned(folder.parent, unused_days=5) == {second: "unused", third: "unused"}
    assert first.exists()


def test_use_by_a_run_keeps_a_shard(folder):
    third = list_shards(folder)[2]
    store = ShardStore(folder)
    store.missing(pack_keys(row[:2].tobytes().hex() for row in read_shard(third).index))
    plan = plan_removals(folder.parent, unused_days=30, now=third.stat().st_mtime + 1)
    assert third not in {removal.path for removal in plan}


def test_room_is_made_by_what_was_used_longest_ago(folder):
    first, second, third = list_shards(folder)
    size = first.stat().st_size
    assert planned(folder.parent, keep_bytes=2 * size) == {third: "room"}
    assert planned(folder.parent, keep_bytes=0) == dict.fromkeys((first, second, third), "room")
    assert planned(folder.parent, keep_bytes=3 * size) == {}


def test_what_was_read_of_images_goes_when_it_is_old(folder):
    memory = folder.parent / SCAN / "0123.scan"
    memory.parent.mkdir()
    memory.write_bytes(b"what was read")
    os.utime(memory, (0, 0))
    assert planned(folder.parent, unused_days=5)[memory] == "unused"
    remove(folder.parent, [Removal(path=memory, size_bytes=13, why="unused")])
    assert not memory.exists()


def test_other_layouts_go_and_other_files_stay(folder):
    old = folder / "ab" / f"{KEYS[0]}.safetensors"
    old.parent.mkdir()
    old.write_bytes(b"of an older sdtune")
    foreign = list_shards(folder)[0]
    foreign.write_bytes(foreign.read_bytes().replace(b'"sdtune_cache": "2"', b'"sdtune_cache": "3"'))
    (folder / "notes.txt").write_text("mine")
    (folder / "mine.safetensors").write_text("mine")
    assert planned(folder.parent) == {old: "another layout", foreign: "another layout"}
    remove(folder.parent, plan_removals(folder.parent, unused_days=1000, now=NOW))
    assert not old.parent.exists()
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} >= {"notes.txt", "mine.safetensors"}
    assert len(list_shards(folder)) == 2


def test_cache_that_a_run_uses_is_left_alone(folder):
    store = ShardStore(folder)
    store.missing(pack_keys(KEYS))
    with pytest.raises(PlatformError, match="a run uses the cache"):
        remove(folder.parent, plan_removals(folder.parent, unused_days=1, keep_bytes=0, now=NOW))
    spoil(list_shards(folder)[0])
    with pytest.raises(PlatformError, match="a run uses the cache"):
        drop_damaged(folder, examine(folder))
    assert len(list_shards(folder)) == 3
    del store
