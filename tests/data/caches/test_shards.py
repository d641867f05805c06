import pytest
import torch
from safetensors import safe_open

from sdtune.data.caches.shards import BadShardError, read_entry, read_shard, write_shard

ENTRIES = {bytes([number] * 16): bytes(range(number + 3)) for number in range(5)}


def test_entries_come_back(tmp_path):
    shard = read_shard(write_shard(tmp_path, ENTRIES))
    assert dict(shard.entries()) == ENTRIES


def test_a_shard_is_a_safetensors_file(tmp_path):
    with safe_open(write_shard(tmp_path, ENTRIES), framework="pt") as file:
        assert set(file.keys()) == {"index", "entries"}
        assert file.get_tensor("index").shape == (5, 6)
        assert bytes(file.get_tensor("entries").to(torch.uint8).tolist()) == b"".join(ENTRIES.values())
        assert file.metadata()["sdtune_cache"] == "2"


def test_the_same_entries_make_the_same_file(tmp_path):
    first = write_shard(tmp_path / "a", ENTRIES)
    second = write_shard(tmp_path / "b", ENTRIES)
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_no_single_bit_can_be_wrong_unnoticed(tmp_path):
    path = write_shard(tmp_path, ENTRIES)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in range(header, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found = dict(read_shard(path).entries())
        except BadShardError:
            continue
        assert found != ENTRIES
        assert None in found.values()


@pytest.mark.parametrize("length", [0, 4, 100, 300, 400, 500])
def test_a_cut_shard_never_gives_wrong_bytes(tmp_path, length):
    path = write_shard(tmp_path, ENTRIES)
    path.write_bytes(path.read_bytes()[:length])
    try:
        found = dict(read_shard(path).entries())
    except BadShardError:
        return
    assert {data for data in found.values() if data is not None} <= set(ENTRIES.values())


def test_another_keys_entry_is_not_believed(tmp_path):
    path = write_shard(tmp_path, ENTRIES)
    row = read_shard(path).index[2].copy()
    row[0] += 1
    assert read_entry(path, row) is None


def test_a_header_of_any_length_is_not_read_whole(tmp_path):
    path = tmp_path / "a"
    path.write_bytes((2**62).to_bytes(8, "little") + b"{" * 100)
    with pytest.raises(BadShardError):
        read_shard(path)
