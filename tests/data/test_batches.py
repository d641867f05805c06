from dataclasses import replace

import pytest
import torch

from sdtune.config.buckets import BucketOptions
from sdtune.config.data import DataOptions
from sdtune.config.subsets import SubsetOptions
from sdtune.data.batches import BatchBuilder
from sdtune.data.buckets.placing import place_images
from sdtune.data.captions.captioner import Captioner
from sdtune.data.index.building import build_index
from sdtune.data.order.plan import plan_epoch
from sdtune.data.pictures.pixels import load_pixels
from sdtune.data.types import Visit
from sdtune.testing.images import write_images


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "3_dog", 4, sizes=[(64, 64), (64, 96)], caption="zwx dog, tag a, tag b, tag c, {index}")
    return tmp_path


def make(folder, seed=1, method_captions=None, **options):
    chosen = DataOptions(path=folder, resolution="64", **options)
    index = build_index(chosen)
    placements = place_images(index.images, chosen)
    captioner = Captioner(index, seed, method_captions=method_captions) if method_captions else None
    return BatchBuilder(index, placements, chosen, seed, captioner=captioner), index, placements


def batches(made, epoch=0, size=2):
    builder, index, placements = made
    return [builder.build(plan, epoch) for plan in plan_epoch(1, epoch, index.images, placements, size)]


def same(a, b):
    return a.captions == b.captions and torch.equal(a.pixels, b.pixels)


def test_batch_holds_its_visits_in_order(folder):
    builder, index, placements = make(folder)
    plan = plan_epoch(1, 0, index.images, placements, 3)[0]
    batch = builder.build(plan, 0)
    pictures = [load_pixels(index.images[visit.image], placements[visit.image]) for visit in plan.visits]
    assert torch.equal(batch.pixels, torch.stack(pictures))
    assert batch.sample_ids == tuple(visit.sample_id for visit in plan.visits)
    assert batch.captions == tuple(index.images[visit.image].caption for visit in plan.visits)
    assert batch.pixels.shape[2:] == (batch.size.height, batch.size.width)
    assert batch.mean is batch.std is None


def test_batches_do_not_depend_on_what_was_built_before(folder):
    options = {"flip": True, "shuffle_tags": True, "caption_dropout": 0.3}
    forwards = batches(make(folder, **options))
    builder, index, placements = make(folder, **options)
    plans = plan_epoch(1, 0, index.images, placements, 2)
    backwards = [builder.build(plan, 0) for plan in reversed(plans)][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))


def test_weights_come_from_the_folders(folder):
    chosen = DataOptions(subsets=(SubsetOptions(path=folder / "3_dog", weight=0.25),), resolution="64")
    index = build_index(chosen)
    placements = place_images(index.images, chosen)
    batch = BatchBuilder(index, placements, chosen, 1).build(plan_epoch(1, 0, index.images, placements, 2)[0], 0)
    assert batch.weights.tolist() == [0.25, 0.25]
    assert batch.weights.dtype == torch.float32


def test_flipped_visits_are_mirrored(folder):
    builder, index, placements = make(folder, flip=True)
    plain, _, _ = make(folder)
    plans = plan_epoch(1, 0, index.images, placements, 1)
    pairs = [(builder.build(plan, 0).pixels, plain.build(plan, 0).pixels) for plan in plans]
    kinds = {"same" if torch.equal(a, b) else "mirrored" if torch.equal(a, b.flip(3)) else "other" for a, b in pairs}
    assert kinds == {"same", "mirrored"}


def test_repeats_of_an_image_are_shuffled_apart(folder):
    builder, index, _ = make(folder, shuffle_tags=True, keep_tags=1)
    captions = {builder.caption(Visit(image=0, sample_id=f"{index.images[0].name}#{n}"), 0) for n in range(30)}
    assert len(captions) > 10
    assert all(caption.startswith("zwx dog, ") for caption in captions)


def test_method_treats_the_shuffled_caption_and_a_dropped_one_stays_empty(folder):
    builder, _, _ = make(
        folder, shuffle_tags=True, caption_dropout=0.5, method_captions=lambda text, subset: [f"<{text}|{subset.name}>"]
    )
    captions = [builder.caption(Visit(image=0, sample_id=f"x#{n}"), 0) for n in range(100)]
    assert 20 < captions.count("") < 80
    assert all(caption.startswith("<") and caption.endswith("|3_dog>") for caption in captions if caption)


def test_fixed_captions_are_all_that_any_visit_can_have(folder):
    made = make(folder, caption_dropout=0.5)
    seen = {caption for epoch in range(4) for batch in batches(made, epoch) for caption in batch.captions}
    assert seen == set(made[0].fixed_captions())


def test_shuffled_captions_are_not_fixed(folder):
    assert make(folder, shuffle_tags=True)[0].fixed_captions() is None


def test_two_runs_differ_by_their_seed(folder):
    first, second = (batches(make(folder, seed=seed, flip=True)) for seed in (1, 2))
    assert not all(same(a, b) for a, b in zip(first, second, strict=True))


def test_each_visit_draws_one_of_the_methods_forms(folder):
    made = make(folder, method_captions=lambda text, subset: [f"one {text}", f"two {text}"])
    seen = [caption for epoch in range(8) for batch in batches(made, epoch) for caption in batch.captions]
    assert set(seen) == set(made[0].fixed_captions())
    assert seen == [caption for epoch in range(8) for batch in batches(made, epoch) for caption in batch.captions]


def test_dropped_tags_are_not_fixed(folder):
    builder, _, _ = make(folder, tag_dropout=0.5, keep_tags=1)
    assert builder.fixed_captions() is None
    captions = {builder.caption(Visit(image=0, sample_id=f"x#{n}"), 0) for n in range(50)}
    assert len(captions) > 5
    assert all(caption.startswith("zwx dog") for caption in captions)


def test_a_batch_has_a_mask_only_when_asked_for(folder):
    assert batches(make(folder))[0].mask is None
    batch = batches(make(folder, alpha_weight=True))[0]
    assert torch.equal(batch.mask, torch.ones(2, 1, batch.size.height // 8, batch.size.width // 8))


def test_random_crops_are_drawn_anew_at_each_visit_and_told_to_the_model(tmp_path):
    write_images(tmp_path / "8_dog", 1, sizes=[(200, 64)])
    builder, index, placements = make(tmp_path, crop="random", buckets=BucketOptions(enabled=False))
    (first, *_), (second, *_) = (batches((builder, index, placements), epoch, size=8) for epoch in (0, 1))
    lefts = [row[3] for batch in (first, second) for row in batch.sizes.tolist()]
    assert len(set(lefts)) > 8
    for number, left in enumerate(first.sizes[:, 3].tolist()):
        placement = replace(placements[0], left=int(left))
        assert torch.equal(first.pixels[number], load_pixels(index.images[0], placement))


def test_random_crops_are_the_same_whatever_stands_in_the_batch(tmp_path):
    write_images(tmp_path / "4_dog", 1, sizes=[(200, 64)])
    made = make(tmp_path, crop="random", buckets=BucketOptions(enabled=False))
    together, alone = batches(made, size=4), batches(made, size=1)
    by_id = {batch.sample_ids[0]: batch.pixels[0] for batch in alone}
    (batch,) = together
    assert all(torch.equal(by_id[name], batch.pixels[n]) for n, name in enumerate(batch.sample_ids))


def test_colours_vary_in_some_visits_and_the_same_way_again(folder):
    plain, varied = batches(make(folder), size=1), batches(make(folder, color=True), size=1)
    changed = [not torch.equal(a.pixels, b.pixels) for a, b in zip(plain, varied, strict=True)]
    assert 0 < sum(changed) < len(changed)
    assert all(map(same, varied, batches(make(folder, color=True), size=1)))
    assert max(float((a.pixels - b.pixels).abs().max()) for a, b in zip(plain, varied, strict=True)) < 0.5
