from dataclasses import replace

import pytest
import torch

from sdtune.config.data import DataOptions
from sdtune.data.batches import BatchBuilder
from sdtune.data.buckets.placing import place_images
from sdtune.data.caches.latents import LatentCache, encode_each
from sdtune.data.caches.shards import read_shard
from sdtune.data.caches.tensor_store import RamStore, ShardStore, list_shards
from sdtune.data.index.building import build_index
from sdtune.data.order.plan import plan_epoch
from sdtune.errors import DataError, PlatformError
from sdtune.models.base import Posterior
from sdtune.testing.images import draw_picture, write_images

OPTIONS = DataOptions(resolution="64", flip=True)


class Encoder:
    """A small convolution in place of a VAE, which counts the images it has seen."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(8, 3, 8, 8, generator=generator)
        self.seen = 0

    def __call__(self, pixels):
        self.seen += len(pixels)
        mean, std = torch.nn.functional.conv2d(pixels, self.weight, stride=8).chunk(2, dim=1)
        return Posterior(mean=mean, std=std.abs())


class Killed(BaseException):
    """Stands for a signal."""


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "2_dog", 4, sizes=[(64, 64), (96, 64)])
    return tmp_path / "2_dog"


@pytest.fixture
def store(tmp_path):
    return ShardStore(tmp_path / "cache/latents")


@pytest.fixture
def encoder():
    return Encoder()


def cache_in(store, **changes):
    return LatentCache(store, **({"vae_digest": "v", "dtype": torch.float32, "alpha_color": "white"} | changes))


def spoil(store, key):
    """Flip a bit in the middle of an entry."""
    for path in list_shards(store.folder):
        for row in read_shard(path).index:
            if row[:2].tobytes() == bytes.fromhex(key):
                data = bytearray(path.read_bytes())
                data[row[2] + row[3] // 2] ^= 16
                path.write_bytes(data)


def builder_for(folder, options=OPTIONS, latents=None):
    index = build_index(options.model_copy(update={"path": folder}))
    return BatchBuilder(index, place_images(index.images, options), options, 1, latents=latents)


def items_of(folder, options=OPTIONS):
    return builder_for(folder, options).latent_items()


def test_full_cache_misses_nothing(folder, store, encoder):
    cache, items = cache_in(store), items_of(folder)
    cache.fill(cache.missing(items), encoder)
    assert encoder.seen == len(items) == 8
    assert not cache_in(store).missing(items)


def test_filled_cache_gives_what_the_encoder_gives(folder, store, encoder):
    builder = builder_for(folder)
    cache = cache_in(store)
    cache.fill(builder.latent_items(), encoder)
    cached = builder_for(folder, latents=cache)
    index = build_index(OPTIONS.model_copy(update={"path": folder}))
    for plan in plan_epoch(1, 0, index.images, place_images(index.images, OPTIONS), 3):
        live, kept = builder.build(plan, 0), cached.build(plan, 0)
        answer = encode_each(encoder, live.pixels)
        assert torch.equal(kept.mean, answer.mean)
        assert torch.equal(kept.std, answer.std)
        assert (kept.captions, kept.sample_ids, kept.pixels) == (live.captions, live.sample_ids, None)


def test_same_pictures_need_one_entry(folder, store):
    (folder / "01.png").write_bytes((folder / "00.png").read_bytes())
    assert len(cache_in(store).missing(items_of(folder))) == 6


def test_edited_image_is_encoded_again_and_nothing_else(folder, store, encoder):
    cache = cache_in(store)
    cache.fill(items_of(folder), encoder)
    draw_picture((64, 64), seed=77).save(folder / "02.png")
    missing = cache.missing(items_of(folder))
    assert {item.record.name for item in missing} == {"02.png"}
    assert {item.flipped for item in missing} == {False, True}


@pytest.mark.parametrize(
    "changes", [{"vae_digest": "w"}, {"dtype": torch.bfloat16}, {"alpha_color": "black"}], ids=lambda it: next(iter(it))
)
def test_other_vae_dtype_or_colour_shares_nothing(folder, store, encoder, changes):
    items = items_of(folder)
    cache_in(store).fill(items, encoder)
    assert len(cache_in(store, **changes).missing(items)) == len(items)


def test_two_names_of_a_colour_share_their_entries(folder, store, encoder):
    items = items_of(folder)
    cache_in(store).fill(items, encoder)
    assert not cache_in(store, alpha_color="#ffffff").missing(items)


@pytest.mark.parametrize("part", ["left", "top", "bucket", "resized"])
def test_other_placement_shares_nothing(folder, store, part):
    cache, item = cache_in(store), items_of(folder)[0]
    value = getattr(item.placement, part)
    other = value + 1 if isinstance(value, int) else value._replace(width=value.width + 8)
    assert cache.key(item) != cache.key(replace(item, placement=replace(item.placement, **{part: other})))


def test_switching_flip_on_adds_the_mirrored_half_only(folder, store, encoder):
    cache = cache_in(store)
    cache.fill(items_of(folder, OPTIONS.model_copy(update={"flip": False})), encoder)
    assert all(item.flipped for item in cache.missing(items_of(folder)))


def test_stopped_fill_goes_on_where_it_was(folder, store, encoder):
    cache, items = cache_in(store), items_of(folder)

    def stop_after_three(done, total):
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        cache.fill(items, encoder, on_progress=stop_after_three)
    cache.fill(cache.missing(items), encoder)
    assert encoder.seen == len(items)


def test_progress_counts_up_to_all(folder, encoder):
    steps = []
    cache_in(RamStore()).fill(items_of(folder), encoder, batch_size=3, on_progress=lambda *step: steps.append(step))
    assert steps == [(3, 8), (4, 8), (7, 8), (8, 8)]


def test_damaged_entry_is_encoded_again_and_never_used(folder, store, encoder):
    cache, items = cache_in(store), items_of(folder)
    cache.fill(items, encoder)
    before = cache.get(items[:1]).mean
    spoil(store, cache.key(items[0]))
    with pytest.raises(PlatformError, match="gone or damaged"):
        cache.get(items[:1])
    assert list(cache.missing(items)) == list(items[:1])
    cache.fill(items[:1], encoder)
    assert torch.equal(cache.get(items[:1]).mean, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_are_refused_and_not_kept(folder, store, bad):
    cache, items = cache_in(store), items_of(folder)

    def encode(pixels):
        return Posterior(mean=torch.full((len(pixels), 4, 8, 8), bad), std=torch.ones(len(pixels), 4, 8, 8))

    with pytest.raises(DataError, match=r"not finite for .*00.png"):
        cache.fill(items, encode)
    assert list(cache.missing(items)) == list(items)


def test_images_that_cannot_be_read_are_told_together_after_the_rest(folder, store, encoder):
    cache, items = cache_in(store), items_of(folder, OPTIONS.model_copy(update={"flip": False}))
    for name in ("00.png", "03.png"):
        (folder / name).unlink()
    with pytest.raises(DataError) as caught:
        cache.fill(items, encoder)
    assert len(caught.value.problems) == 2
    assert [item.record.name for item in cache.missing(items)] == ["00.png", "03.png"]


def test_cached_training_does_not_need_the_images(folder, store, encoder):
    cache = cache_in(store)
    builder = builder_for(folder, latents=cache)
    items = builder.latent_items()
    cache.fill(items, encoder)
    (folder / "00.png").unlink()
    assert cache.get(items[:2]).mean.shape == (2, 4, 8, 8)


@pytest.mark.slow  # imports diffusers
def test_real_vae_gives_the_same_bits_cached_or_not(folder, store):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4).eval()

    def encode(pixels):
        answer = vae.encode(pixels).latent_dist
        return Posterior(mean=answer.mean, std=answer.std)

    builder, cache = builder_for(folder), cache_in(store)
    cache.fill(builder.latent_items(), encode)
    cached = builder_for(folder, latents=cache)
    index = build_index(OPTIONS.model_copy(update={"path": folder}))
    plan = max(plan_epoch(1, 0, index.images, place_images(index.images, OPTIONS), 4), key=lambda it: len(it.visits))
    live = encode_each(encode, builder.build(plan, 0).pixels)
    kept = cached.build(plan, 0)
    assert len(plan.visits) == 4
    assert torch.equal(kept.mean, live.mean)
    assert torch.equal(kept.std, live.std)
