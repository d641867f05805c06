"""What holds of every epoch of any data set: who is seen how often, with whom, whoever asks for which share."""

import math
import random
from collections import Counter, defaultdict

import pytest

from sdtune.data.order.plan import arrange
from sdtune.train.inputs.source import share_batches
from sdtune.train.machine.ranks import Ranks

BUCKETS = [(64, 64), (64, 96), (96, 64), (128, 64)]
REPEATS = [1, 2, 3, 7, 0.1, 0.3, 0.5, 1.25, 2.5, 2.9]
SEEDS = [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 60))]


@pytest.fixture(params=SEEDS)
def made(request, data_set):
    """A random data set: folders with whole and parted repeats and batch sizes, with and without regularization."""
    draws = random.Random(request.param)
    training = [
        (
            f"{number}",
            draws.choices(BUCKETS, k=draws.randint(1, 20)),
            {"repeats": draws.choice(REPEATS), "batch_size": draws.choice([None, None, 1, 3])},
        )
        for number in range(draws.randint(1, 4))
    ]
    regularization = [
        (
            f"reg/{number}",
            draws.choices(BUCKETS, k=draws.randint(1, 20)),
            {"repeats": draws.choice([1, 1, 2, 0.5]), "pairs": draws.choice([(), ("0",)])},
        )
        for number in range(draws.choice([0, 1, 2]))
    ]
    images, placements = data_set(*training, *regularization)
    order = arrange(images, placements, draws.randint(1, 5), draws.choice([0.5, 1, 2]))
    return order, images, placements, request.param


def visits(order, seed, epoch):
    return [visit for batch in order.plan(seed, epoch) for visit in batch.visits]


def of_training(images, found):
    return Counter(visit.image for visit in found if not images[visit.image].subset.is_regularization)


def test_every_image_is_seen_as_often_as_its_folder_says(made):
    order, images, _, seed = made
    totals = Counter()
    for epoch in range(12):
        counts = of_training(images, visits(order, seed, epoch))
        totals += counts
        wrong = [
            image.name
            for index, image in enumerate(images)
            if not image.subset.is_regularization
            and counts[index] not in (math.floor(image.subset.repeats), math.ceil(image.subset.repeats))
        ]
        assert wrong == []
    alike = defaultdict(set)
    for index, (image, placement) in enumerate(zip(images, made[2], strict=True)):
        if not image.subset.is_regularization:
            alike[image.subset.name, placement.bucket].add(totals[index])
    assert all(max(counts) - min(counts) <= 1 for counts in alike.values())


def test_every_epoch_has_as_many_visits_and_batches_of_each_shape(made):
    order, _, placements, seed = made
    for epoch in range(6):
        plan = order.plan(seed, epoch)
        assert (len(plan), int(plan.lengths.sum())) == (order.batches, order.counts.total())
        found = Counter(placements[visit.image].bucket for batch in plan for visit in batch.visits)
        wanted = Counter()
        for shape, count in order.counts.items():
            wanted[shape.bucket] += count
        assert found == wanted


def test_no_sample_comes_twice_in_an_epoch(made):
    order, _, _, seed = made
    ids = [visit.sample_id for visit in visits(order, seed, 3)]
    assert len(ids) == len(set(ids))


def test_a_batch_has_one_bucket_and_at_most_its_folders_batch_size(made):
    order, images, placements, seed = made
    shapes = {(shape.bucket, shape.batch_size) for shape in order.counts}
    for batch in order.plan(seed, 1):
        assert {placements[visit.image].bucket for visit in batch.visits} == {batch.bucket}
        own = {images[visit.image].subset.batch_size for visit in batch.visits}
        assert len(own) == 1 or None in own
        assert any(bucket == batch.bucket and len(batch.visits) <= size for bucket, size in shapes)


def test_every_regularization_image_comes_to_its_turn(made):
    order, images, _, seed = made
    if order.rotations:
        epochs = max(math.ceil(4 * rotation.pool.visits / rotation.visits) for rotation in order.rotations)
        seen = {visit.image for epoch in range(epochs) for visit in visits(order, seed, epoch)}
        assert {index for index, image in enumerate(images) if image.subset.is_regularization} <= seen


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_shares_of_all_processes_are_the_order_of_one(made, size):
    order, _, _, seed = made
    plan = list(order.plan(seed, 2))
    steps = [plan[start : start + 2] for start in range(0, len(plan), 2)]
    shared = [visit for step in steps for rank in range(size)
              for batch in share_batches(step, Ranks(rank, size)) for visit in batch.visits]  # fmt: skip
    assert shared == [visit for batch in plan for visit in batch.visits]


def test_whoever_comes_later_sees_the_same_order(made):
    order, _, _, seed = made
    assert visits(order, seed, 5) == visits(order, seed, 5)
