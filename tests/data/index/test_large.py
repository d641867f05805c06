"""Memory against the number of images: what a data set takes, from its index to the plan of an epoch."""

import gc
import tracemalloc

import pytest

from sdtune.config.cache import CacheOptions
from sdtune.config.data import DataOptions
from sdtune.data.index import scan
from sdtune.data.index.building import build_index
from sdtune.testing.images import draw_picture
from sdtune.testing.large import go_through, make_index

LIMIT_BYTES = 1024


def traced(work):
    """Give what is left and what was there at once, in bytes; the result is alive while it is measured."""
    gc.collect()
    tracemalloc.start()
    result = work()
    gc.collect()
    left, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result
    return left, peak


def slopes(work, few, many):
    small, large = traced(lambda: work(few)), traced(lambda: work(many))
    return [(after - before) / (many - few) for before, after in zip(small, large, strict=True)]


def test_a_table_takes_few_bytes_beside_its_letters():
    left, _ = slopes(make_index, 100, 400)
    letters = 120 + 2 * 20
    assert left < letters + 200


@pytest.mark.slow
def test_a_million_images_take_less_than_a_gigabyte_up_to_the_first_batch():
    _, peak = slopes(lambda count: go_through(make_index(count)), 2000, 12000)
    assert peak < LIMIT_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("is_warm", [False, True])
def test_reading_a_folder_takes_little_memory_for_each_image(tmp_path, monkeypatch, is_warm):
    monkeypatch.setattr(scan, "_RACY_NS", 0)  # so that files just written are remembered, whatever the clock says
    draw_picture((64, 64)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for count in (500, 2000):
        (tmp_path / str(count)).mkdir()
        for number in range(count):
            (tmp_path / f"{count}/{number:07d}.png").write_bytes(content + b"%d" % number)
            (tmp_path / f"{count}/{number:07d}.txt").write_text(f"a photo of a dog, number {number}")

    def read(count, cache="cache"):
        return build_index(DataOptions(path=tmp_path / str(count), cache=CacheOptions(dir=tmp_path / cache)))

    read(500, "first")  # what is imported and made once
    if is_warm:
        read(500), read(2000)
    _, peak = slopes(read, 500, 2000)
    assert peak < LIMIT_BYTES
