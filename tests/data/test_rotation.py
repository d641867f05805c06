from collections import Counter

import pytest

from sdtune.config.data import DataOptions
from sdtune.config.regularization import RegularizationOptions
from sdtune.data.buckets import place_images
from sdtune.data.index import build_index
from sdtune.data.plan import batches_per_epoch, count_visits, plan_epoch
from sdtune.data.regularization import find_sources
from sdtune.data.rotation import plan_rotations
from sdtune.testing.images import write_images

OPTIONS = DataOptions(resolution="64")


@pytest.fixture
def make(tmp_path):
    """Read 2 x 3 + 1 instance visits and 8 regularization images of two sizes."""
    write_images(tmp_path / "data" / "3_zwx dog", 2, sizes=[(64, 64), (64, 96)])
    write_images(tmp_path / "data" / "1_sks cat", 1)
    write_images(tmp_path / "reg" / "1_dog", 5, sizes=[(64, 64), (96, 64)])
    write_images(tmp_path / "reg" / "2_cat", 3)

    def make(ratio=1.0):
        data = OPTIONS.model_copy(update={"path": tmp_path / "data"})
        index = build_index(data, find_sources(RegularizationOptions(path=tmp_path / "reg")))
        placements = place_images(index.images, data)
        return index, placements, plan_rotations(index.images, placements, ratio)

    return make


def visits(made, epoch, seed=0, batch_size=2):
    index, placements, rotations = made
    plan = plan_epoch(seed, epoch, index.images, placements, batch_size, rotations)
    return [visit for batch in plan for visit in batch.visits]


def regularization(made, epoch, seed=0):
    index = made[0]
    return [visit for visit in visits(made, epoch, seed) if index.images[visit.image].subset.is_regularization]


@pytest.mark.parametrize(("ratio", "dogs", "cats"), [(1, 6, 1), (2, 12, 2), (0.5, 3, 1)])
def test_a_folder_has_as_many_visits_as_the_folders_it_pairs_with(make, ratio, dogs, cats):
    made = make(ratio)
    counts = Counter(made[0].images[visit.image].subset.name for visit in regularization(made, 0))
    assert counts == {"regularization/1_dog": dogs, "regularization/2_cat": cats}


@pytest.mark.parametrize("ratio", [0.3, 1, 2.5])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_each_epoch_has_the_same_number_of_batches_and_visits(make, ratio, batch_size):
    index, placements, rotations = make(ratio)
    counts = count_visits(index.images, placements, rotations)
    plans = [plan_epoch(3, epoch, index.images, placements, batch_size, rotations) for epoch in range(7)]
    expected = batches_per_epoch(index.images, placements, batch_size, rotations)
    assert [len(plan) for plan in plans] == [expected] * 7
    assert all(Counter(batch.bucket for batch in plan for _ in batch.visits) == counts for plan in plans)


def test_every_image_has_its_turn_as_often_as_others_of_its_size(make):
    made = make()
    seen = Counter(made[0].images[visit.image].name for epoch in range(30) for visit in regularization(made, epoch))
    assert len(seen) == 8
    assert {count for name, count in seen.items() if "2_cat" in name} == {10}
    assert {count for name, count in seen.items() if "1_dog" in name} == {40, 30}  # 4 visits to 3 images, 2 to 2


def test_an_image_comes_back_only_after_the_others_of_its_size(make):
    made = make()
    row = [v.image for e in range(9) for v in made[2][-1].turn(0, e)]
    size = len(made[2][-1].entries)
    assert sorted(row[:size]) == sorted(entry.image for entry in made[2][-1].entries)


def test_sample_ids_are_unique_within_an_epoch(make):
    ids = [visit.sample_id for visit in visits(make(3), 4)]
    assert len(ids) == len(set(ids))


def test_a_turn_depends_on_seed_and_epoch_alone(make):
    made = make()
    assert visits(made, 5) == visits(make(), 5)
    assert regularization(made, 5) != regularization(made, 5, seed=1)
    assert regularization(made, 5) != regularization(made, 6)
