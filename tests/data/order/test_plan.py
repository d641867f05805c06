import random
from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from sdtune.config.data import DataOptions
from sdtune.data.buckets.placing import place_images
from sdtune.data.index.building import build_index
from sdtune.data.order.plan import arrange, plan_epoch
from sdtune.data.types import BatchPlan, Visit
from sdtune.randomness import derive_seed
from sdtune.testing.images import draw_picture, write_images

WIDE, TALL, SQUARE = (96, 64), (64, 96), (64, 64)


@pytest.fixture
def data(tmp_path):
    write_images(tmp_path / "3_dog", 5, sizes=[(64, 64), (64, 96), (96, 64)])
    write_images(tmp_path / "1_cat", 4)
    index = build_index(DataOptions(path=tmp_path))
    return index.images, place_images(index.images, DataOptions(resolution="64"))


def sample_ids(plan):
    return [visit.sample_id for batch in plan for visit in batch.visits]


def shuffled_objects(seed, epoch, images, placements, batch_size, turns=()):
    """The order as it was first written, in lists of visits: what orders of runs that exist hang on."""
    draws = random.Random(derive_seed(seed, "order", epoch))
    by_bucket = defaultdict(list)
    for index, (record, placement) in enumerate(zip(images, placements, strict=True)):
        for repeat in range(0 if record.subset.is_regularization else round(record.subset.repeats)):
            by_bucket[placement.bucket].append(Visit(image=index, sample_id=f"{record.name}#{repeat}"))
    for bucket, visits in turns:
        by_bucket[bucket] += visits
    batches = []
    for bucket, visits in sorted(by_bucket.items()):
        draws.shuffle(visits)
        for start in range(0, len(visits), batch_size):
            batches.append(BatchPlan(bucket=bucket, visits=tuple(visits[start : start + batch_size])))
    draws.shuffle(batches)
    return batches


def turn(name, bucket, entries, visits, seed, epoch):
    """The turn of regularization images as it was first written."""

    def shuffled_round(number):
        order = list(entries)
        random.Random(derive_seed(seed, "rotation", name, str(bucket), number)).shuffle(order)
        return [Visit(image=entry.image, sample_id=f"{entry.sample_id}.{number}") for entry in order]

    first = epoch * visits
    rounds = range(first // len(entries), (first + visits - 1) // len(entries) + 1)
    row = [visit for number in rounds for visit in shuffled_round(number)]
    start = first - rounds[0] * len(entries)
    return row[start : start + visits]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_the_order_is_that_of_shuffled_objects(data_set, batch_size, epoch):
    data = data_set(
        ("b", [SQUARE, WIDE] * 20, {"repeats": 3}),
        ("a", [TALL, WIDE, SQUARE] * 15, {}),
    )
    assert list(plan_epoch(7, epoch, *data, batch_size)) == shuffled_objects(7, epoch, *data, batch_size)


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_regularization_takes_the_turns_it_always_took(data_set, epoch):
    images, placements = data_set(
        ("dog", [SQUARE, WIDE, SQUARE], {"repeats": 2}), ("reg", [SQUARE] * 3 + [WIDE] * 2, {"repeats": 2, "pairs": ()})
    )
    entries = defaultdict(list)
    for index in range(3, 8):
        visits = [Visit(image=index, sample_id=f"{images[index].name}#{number}") for number in range(2)]
        entries[placements[index].bucket] += visits
    shares = {SQUARE: 4, WIDE: 2}  # of 6, as 6 to 4 entries
    turns = [(bucket, turn("", bucket, row, shares[bucket], 7, epoch)) for bucket, row in entries.items()]
    expected = shuffled_objects(7, epoch, images, placements, 3, turns)
    assert list(arrange(images, placements, 3).plan(7, epoch)) == expected


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
    assert len(plan_epoch(7, 3, *data, batch_size)) == arrange(*data, batch_size).batches


def test_sample_ids_name_their_image(data):
    images, placements = data
    for batch in plan_epoch(7, 0, images, placements, 2):
        assert all(visit.sample_id.rpartition("#")[0] == images[visit.image].name for visit in batch.visits)


def test_plan_is_a_function_of_seed_and_epoch(data):
    assert list(plan_epoch(7, 2, *data, 2)) == list(plan_epoch(7, 2, *data, 2))
    assert sample_ids(plan_epoch(7, 0, *data, 2)) != sample_ids(plan_epoch(8, 0, *data, 2))
    assert sample_ids(plan_epoch(7, 0, *data, 2)) != sample_ids(plan_epoch(7, 1, *data, 2))


def test_only_the_last_batch_of_a_bucket_is_short(data):
    sizes = Counter((batch.bucket, len(batch.visits)) for batch in plan_epoch(7, 0, *data, 2))
    assert all(count == 1 for (_, size), count in sizes.items() if size < 2)


@pytest.mark.parametrize("repeats", [0.1, 0.3, 0.5, 1.5, 2.25, 2.999])
def test_part_of_a_repeat_goes_to_each_image_in_turn(data_set, repeats):
    data = data_set(("dog", [SQUARE] * 20, {"repeats": repeats}))
    seen = Counter()
    for epoch in range(20):
        own = Counter(visit.image for batch in plan_epoch(7, epoch, *data, 3) for visit in batch.visits)
        assert own.total() == arrange(*data, 3).counts.total() == int(20 * repeats + 0.5)
        assert {own[image] for image in range(20)} <= {int(repeats), int(repeats) + 1}
        seen += own
        counts = [seen[image] for image in range(20)]
        assert max(counts) - min(counts) <= 1
    assert set(seen.values()) == {int(20 * repeats + 0.5)}


def test_part_of_a_repeat_has_other_company_each_time_round(data_set):
    data = data_set(("dog", [SQUARE] * 20, {"repeats": 0.5}))
    halves = [frozenset(visit.image for batch in plan_epoch(7, epoch, *data, 4) for visit in batch.visits)
              for epoch in range(8)]  # fmt: skip
    assert len(set(halves)) == 8
    assert all(one | other == set(range(20)) for one, other in zip(halves[::2], halves[1::2], strict=True))


def test_part_of_a_repeat_is_divided_among_buckets_by_largest_remainder(data_set):
    images, placements = data_set(("dog", [SQUARE] * 7 + [WIDE] * 3 + [TALL], {"repeats": 2.4}))
    counts = {shape.bucket: count for shape, count in arrange(images, placements, 4).counts.items()}
    assert counts == {SQUARE: 14 + 3, WIDE: 6 + 1, TALL: 2}  # 2.8, 1.2 and 0.4 of 4


def test_no_bucket_is_left_out_where_images_are_seen_less_than_once(data_set):
    order = arrange(*data_set(("dog", [SQUARE] * 8 + [WIDE], {"repeats": 0.25})), 4)
    assert sorted(order.counts.values()) == [1, 2]


def test_batches_have_one_bucket_and_the_batch_size_of_their_folder(data_set):
    images, placements = data_set(
        ("small", [SQUARE, WIDE] * 7, {"batch_size": 5}),
        ("large", [SQUARE, WIDE] * 7, {}),
        ("one", [SQUARE] * 3, {"batch_size": 1}),
    )
    order = arrange(images, placements, 2)
    lengths = defaultdict(list)
    for batch in order.plan(7, 0):
        (name,) = {images[visit.image].subset.name for visit in batch.visits}
        lengths[name].append(len(batch.visits))
    assert {name: sorted(found) for name, found in lengths.items()} == {
        "small": [2, 2, 5, 5],
        "large": [1, 1, 2, 2, 2, 2, 2, 2],
        "one": [1, 1, 1],
    }
    assert (order.batches, order.batch_sizes) == (15, (5, 2, 1))
    assert order.largest == (WIDE, 5)


def test_folders_of_one_batch_size_share_batches(data_set):
    images, placements = data_set(("a", [SQUARE] * 3, {"batch_size": 2}), ("b", [SQUARE] * 3, {}))
    assert arrange(images, placements, 2).batches == 3


def test_a_plan_is_a_sequence(data):
    plan = plan_epoch(7, 0, *data, 2)
    batches = list(plan)
    assert (plan[-1], plan[1:3], plan[::-1]) == (batches[-1], tuple(batches[1:3]), tuple(reversed(batches)))
    assert plan.lengths.tolist() == [len(batch.visits) for batch in batches]
    with pytest.raises(IndexError):
        plan[len(plan)]


def test_the_largest_batch_is_the_first_with_most_pixels(data):
    plan = plan_epoch(7, 0, *data, 2)
    pixels = [batch.bucket.width * batch.bucket.height * len(batch.visits) for batch in plan]
    assert plan.largest == plan[pixels.index(max(pixels))]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_plan_keeps_at_most_20_bytes_a_visit(data_set, batch_size):
    plan = plan_epoch(7, 0, *data_set(("a", [SQUARE, WIDE] * 500, {"repeats": 3})), batch_size)
    assert plan.nbytes <= 20 * 3000


def test_epochs_go_on_where_others_stopped(data_set):
    data = data_set(("dog", [SQUARE] * 10, {"repeats": 0.3}))
    turns = [sorted(visit.image for batch in plan_epoch(7, epoch, *data, 1) for visit in batch.visits)
             for epoch in range(10)]  # fmt: skip
    assert all(not set(one) & set(other) for one, other in pairwise(turns))


def test_the_order_does_not_hang_on_which_file_was_written_first(tmp_path):
    def plan(name, numbers):
        (tmp_path / name).mkdir()
        for number in numbers:
            draw_picture(seed=number).save(tmp_path / name / f"{number}.png")
        index = build_index(DataOptions(path=tmp_path / name, captions="empty"))
        return list(plan_epoch(7, 0, index.images, place_images(index.images, DataOptions(resolution="64")), 2))

    assert plan("one", range(12)) == plan("other", reversed(range(12)))
