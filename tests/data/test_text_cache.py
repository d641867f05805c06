import pytest
import torch

from sdtune.data.tensor_store import DiskStore, RamStore
from sdtune.data.text_cache import TextCache
from sdtune.errors import NumericsError, PlatformError
from sdtune.models.base import Conditioning


def encode(captions):
    hidden = torch.stack([torch.full((5, 3), float(len(caption))) for caption in captions])
    return Conditioning(hidden=hidden, pooled=hidden[:, 0])


def encode_without_pooled(captions):
    return Conditioning(hidden=encode(captions).hidden)


def cache_in(store, **changes):
    return TextCache(store, **({"text_encoder_digest": "t", "clip_skip": 1, "dtype": torch.float32} | changes))


@pytest.fixture(params=["disk", "ram"])
def cache(request, tmp_path):
    return cache_in(DiskStore(tmp_path) if request.param == "disk" else RamStore())


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


@pytest.mark.parametrize("changes", [{"text_encoder_digest": "u"}, {"clip_skip": 2}, {"dtype": torch.bfloat16}])
def test_other_encoder_clip_skip_or_dtype_shares_nothing(tmp_path, changes):
    store = DiskStore(tmp_path)
    cache_in(store).fill(["a"], encode)
    assert cache_in(store, **changes).missing(["a"]) == ("a",)


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
