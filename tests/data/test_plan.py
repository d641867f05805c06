from collections import Counter

import pytest

from sdtune.config.data import DataOptions
from sdtune.data.buckets import place_images
from sdtune.data.index import build_index
from sdtune.data.plan import batches_per_epoch, plan_epoch
from sdtune.testing.images import write_images


@pytest.fixture
def data(tmp_path):
    write_images(tmp_path / "3_dog", 5, sizes=[(64, 64), (64, 96), (96, 64)])
    write_images(tmp_path / "1_cat", 4)
    index = build_index(DataOptions(path=tmp_path))
    return index.images, place_images(index.images, DataOptions(resolution="64"))


def sample_ids(plan):
    return [visit.sample_id for batch in plan for visit in batch.visits]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
@pytest.mark.parametrize("epoch", [0, 1])
def test_each_visit_comes_once_in_an_epoch(data, batch_size, epoch):
    plan = plan_epoch(7, epoch, *data, batch_size)
    expected = {f"3_dog/{n:02d}.png#{r}" for n in range(5) for r in range(3)} | {
        f"1_cat/{n:02d}.png#0" for n in range(4)
    }
    assert Counter(sample_ids(plan)) == Counter(expected)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_a_batch_has_one_bucket(data, batch_size):
    images, placements = data
    for batch in plan_epoch(7, 0, images, placements, batch_size):
        assert {placements[visit.image].bucket for visit in batch.visits} == {batch.bucket}
        assert 1 <= len(batch.visits) <= batch_size


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_number_of_batches_is_known_before(data, batch_size):
    assert len(plan_epoch(7, 3, *data, batch_size)) == batches_per_epoch(*data, batch_size)


def test_sample_ids_name_their_image(data):
    images, placements = data
    for batch in plan_epoch(7, 0, images, placements, 2):
        assert all(visit.sample_id.rpartition("#")[0] == images[visit.image].name for visit in batch.visits)


def test_plan_is_a_function_of_seed_and_epoch(data):
    assert plan_epoch(7, 2, *data, 2) == plan_epoch(7, 2, *data, 2)
    assert sample_ids(plan_epoch(7, 0, *data, 2)) != sample_ids(plan_epoch(8, 0, *data, 2))
    assert sample_ids(plan_epoch(7, 0, *data, 2)) != sample_ids(plan_epoch(7, 1, *data, 2))


def test_only_the_last_batch_of_a_bucket_is_short(data):
    sizes = Counter((batch.bucket, len(batch.visits)) for batch in plan_epoch(7, 0, *data, 2))
    assert all(count == 1 for (_, size), count in sizes.items() if size < 2)
