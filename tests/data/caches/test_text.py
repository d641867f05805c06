import pytest
import torch

from sdtune.data.caches.tensor_store import RamStore, ShardStore
from sdtune.data.caches.text import TextCache
from sdtune.errors import NumericsError, PlatformError
from sdtune.models.base import Conditioning


def encode(captions):
    hidden = torch.stack([torch.full((5, 3), float(len(caption))) for caption in captions])
    return Conditioning(hidden=hidden, pooled=hidden[:, 0])


def encode_without_pooled(captions):
    return Conditioning(hidden=encode(captions).hidden)


@pytest.fixture(params=["disk", "ram"])
def cache(request, tmp_path):
    return TextCache(ShardStore(tmp_path) if request.param == "disk" else RamStore(), "t")


def test_each_distinct_caption_is_encoded_once(cache):
    assert cache.missing(["a", "bb", "a", ""]) == ("a", "bb", "")
    cache.fill(["a", "bb"], encode)
    assert cache.missing(["a", "bb", ""]) == ("",)


def test_batch_comes_back_in_order(cache):
    cache.fill(["a", "bb"], encode)
    expected, found = encode(["bb", "a", "bb"]), cache.get(["bb", "a", "bb"])
    assert torch.equal(found.hidden, expected.hidden)
    assert torch.equal(found.pooled, expected.pooled)


def test_families_without_pooled_text_have_none(cache):
    cache.fill(["a"], encode_without_pooled)
    assert cache.get(["a"]).pooled is None


def test_another_reading_shares_nothing(tmp_path):
    store = ShardStore(tmp_path)
    TextCache(store, "t").fill(["a"], encode)
    assert TextCache(store, "u").missing(["a"]) == ("a",)


def test_captions_of_different_length_are_masked(cache):
    cache.fill(["a"], lambda _: Conditioning(hidden=torch.ones(1, 2, 3)))
    cache.fill(["b"], lambda _: Conditioning(hidden=torch.ones(1, 4, 3)))
    found = cache.get(["a", "b"])
    assert found.mask.tolist() == [[True, True, False, False], [True] * 4]
    assert torch.equal(found.hidden[..., 0], found.mask.float())
    assert cache.get(["b", "b"]).mask is None


def test_entry_that_is_gone_is_told(cache):
    with pytest.raises(PlatformError, match="gone or damaged"):
        cache.get(["a"])


def test_text_that_is_not_finite_is_refused_and_not_kept(cache):
    with pytest.raises(NumericsError, match="not finite for 'a'"):
        cache.fill(["a"], lambda captions: Conditioning(hidden=torch.full((1, 5, 3), float("nan"))))
    assert cache.missing(["a"]) == ("a",)


def test_progress_is_told(cache):
    steps = []
    cache.fill(["a", "b"], encode, on_progress=lambda *step: steps.append(step))
    assert steps == [(1, 2), (2, 2)]
