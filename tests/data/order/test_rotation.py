from collections import Counter

import pytest

from sdtune.config.data import DataOptions
from sdtune.config.regularization import RegularizationOptions
from sdtune.data.buckets.placing import place_images
from sdtune.data.index.building import build_index
from sdtune.data.index.regularization import find_sources
from sdtune.data.order.plan import arrange
from sdtune.testing.images import write_images

OPTIONS = DataOptions(resolution="64")


@pytest.fixture
def make(tmp_path):
    """Read 2 x 3 + 1 instance visits and 8 regularization images of two sizes."""
    write_images(tmp_path / "data" / "3_zwx dog", 2, sizes=[(64, 64), (64, 96)])
    write_images(tmp_path / "data" / "1_sks cat", 1)
    write_images(tmp_path / "reg" / "1_dog", 5, sizes=[(64, 64), (96, 64)])
    write_images(tmp_path / "reg" / "2_cat", 3)

    def make(ratio=1.0, batch_size=2):
        data = OPTIONS.model_copy(update={"path": tmp_path / "data"})
        index = build_index(data, find_sources(RegularizationOptions(path=tmp_path / "reg")))
        return arrange(index.images, place_images(index.images, data), batch_size, ratio)

    return make


def visits(order, epoch, seed=0):
    return [visit for batch in order.plan(seed, epoch) for visit in batch.visits]


def regularization(order, epoch, seed=0):
    return [visit for visit in visits(order, epoch, seed) if order.images[visit.image].subset.is_regularization]


@pytest.mark.parametrize(("ratio", "dogs", "cats"), [(1, 6, 1), (2, 12, 2), (0.5, 3, 1)])
def test_a_folder_has_as_many_visits_as_the_folders_it_pairs_with(make, ratio, dogs, cats):
    order = make(ratio)
    counts = Counter(order.images[visit.image].subset.name for visit in regularization(order, 0))
    assert counts == {"regularization/1_dog": dogs, "regularization/2_cat": cats}
    assert order.regularization_visits == dogs + cats


@pytest.mark.parametrize("ratio", [0.3, 1, 2.5])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_each_epoch_has_the_same_number_of_batches_and_visits(make, ratio, batch_size):
    order = make(ratio, batch_size)
    counts = {shape.bucket: count for shape, count in order.counts.items()}
    plans = [order.plan(3, epoch) for epoch in range(7)]
    assert [len(plan) for plan in plans] == [order.batches] * 7
    assert all(Counter(batch.bucket for batch in plan for _ in batch.visits) == counts for plan in plans)


def test_every_image_has_its_turn_as_often_as_others_of_its_size(make):
    order = make()
    seen = Counter(order.images[visit.image].name for epoch in range(30) for visit in regularization(order, epoch))
    assert len(seen) == 8
    assert {count for name, count in seen.items() if "2_cat" in name} == {10}
    assert {count for name, count in seen.items() if "1_dog" in name} == {40, 30}  # 4 visits to 3 images, 2 to 2


def test_an_image_comes_back_only_after_the_others_of_its_size(make):
    rotation = make().rotations[-1]
    row = [image for epoch in range(9) for image in rotation.turn(0, epoch).images.tolist()]
    size = rotation.pool.visits
    assert sorted(row[:size]) == sorted(rotation.pool.round(0, 0).images.tolist())


def test_sample_ids_are_unique_within_an_epoch(make):
    ids = [visit.sample_id for visit in visits(make(3), 4)]
    assert len(ids) == len(set(ids))


def test_a_turn_depends_on_seed_and_epoch_alone(make):
    order = make()
    assert visits(order, 5) == visits(make(), 5)
    assert regularization(order, 5) != regularization(order, 5, seed=1)
    assert regularization(order, 5) != regularization(order, 6)


def test_images_with_part_of_a_repeat_have_turns_among_those_that_take_turns(data_set):
    square = (64, 64)
    images, placements = data_set(
        ("dog", [square] * 6, {}),
        ("rare", [square] * 4, {"repeats": 0.5, "pairs": ["dog"]}),
        ("often", [square] * 4, {"repeats": 1, "pairs": ["dog"]}),
    )
    order = arrange(images, placements, 2)
    seen = Counter(visit.image for epoch in range(20) for visit in regularization(order, epoch))
    assert seen == dict.fromkeys(range(6, 10), 10) | dict.fromkeys(range(10, 14), 20)


def test_the_last_shared_place_is_taken_by_the_largest_remainder(data_set):
    wide, square = (96, 64), (64, 64)
    order = arrange(*data_set(("dog", [square] * 5, {}), ("reg", [square] * 4 + [wide] * 3, {"pairs": ()})), 1)
    assert {rotation.pool.shape.bucket: rotation.visits for rotation in order.rotations} == {square: 3, wide: 2}
