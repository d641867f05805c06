import pytest

import sdtune_lora
from sdtune.config.compose import load
from sdtune.data.caches.tensor_store import list_shards
from sdtune.plugins import Registry
from sdtune.testing.images import write_images
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.assembly.assembling import assemble
from sdtune.train.inputs.caches import RunCaches
from sdtune.train.inputs.source import wanted_entries
from sdtune.train.run import run_folder
from sdtune.train.space import cache_modes


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches")
    write_images(folder / "data", 2)
    return [f"model.path={tiny_sd1(folder / 'tiny')}", f"data.path={folder / 'data'}"]


@pytest.fixture
def assembled(places, tmp_path):
    def make(*more):
        registry = Registry.from_plugins([sdtune_lora])
        words = ["method=lora", *places, "data.resolution=64", "train.steps=2", "lora.text_encoder=false"]
        loaded = load(registry, overrides=[*words, f"data.cache.dir={tmp_path / 'cache'}", *more])
        return assemble(loaded, registry, run_folder(loaded.options))

    return make


def filled(run):
    caches = RunCaches(run, wanted_entries(run, ()))
    encoded = []
    caches.fill(lambda what, done, count: encoded.append(what))
    return encoded


def test_auto_is_memory_where_all_fits_and_the_disk_elsewhere(assembled):
    auto = ("data.cache.latents=auto", "data.cache.text=auto")
    assert cache_modes(assembled(*auto)) == {"latents": "ram", "text": "ram"}
    assert cache_modes(assembled(*auto, "data.cache.ram_gib=0")) == {"latents": "disk", "text": "disk"}
    assert cache_modes(assembled(*auto, "data.cache.ram_gib=1e-4")) == {"latents": "ram", "text": "disk"}


def test_auto_in_memory_leaves_nothing_on_disk(assembled, tmp_path):
    assert filled(assembled("data.cache.latents=auto")) == ["text"] * 2 + ["latents"] * 2
    assert not (tmp_path / "cache").exists()


def test_auto_uses_the_disk_where_all_is_there_already(assembled, tmp_path):
    on_disk = ("data.cache.latents=disk", "data.cache.text=disk")
    assert len(filled(assembled(*on_disk))) == 4
    assert filled(assembled("data.cache.latents=auto", "data.cache.text=auto")) == []
    assert len(list_shards(tmp_path / "cache" / "latents")) == 1


def test_what_is_off_is_not_opened(assembled):
    caches = RunCaches(run := assembled("data.cache.latents=off", "data.cache.text=off"), wanted_entries(run, ()))
    assert (caches.latents, caches.texts) == (None, None)


def test_captions_that_change_are_not_wanted(assembled):
    assert wanted_entries(assembled("lora.text_encoder=true"), ()).captions is None
    assert wanted_entries(assembled("data.shuffle_tags=true"), ()).captions is None
    assert len(wanted_entries(assembled(), ("a preview",)).captions) == 3
