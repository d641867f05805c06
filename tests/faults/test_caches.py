"""Rows F44 to F46 of the fault table: caches and images that change or are spoilt, and builds that are killed."""

import os
import random
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from sdtune.config.compose import load
from sdtune.data.caches import tensor_store
from sdtune.data.caches.shards import read_shard
from sdtune.data.caches.tensor_store import ShardStore, list_shards
from sdtune.plugins import Registry
from sdtune.testing.images import draw_picture, write_images
from sdtune.testing.runner import command, train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.assembly.assembling import assemble
from sdtune.train.inputs.caches import RunCaches
from sdtune.train.inputs.source import wanted_entries
from sdtune.train.run import run_folder
from sdtune.train.watching.observers import Observer

PHOTOGRAPHS = Path(__file__).resolve().parents[3] / "shared" / "data" / "dreambooth"


class At(Observer):
    """Do something after a step."""

    def __init__(self, step, act):
        self.step = step
        self.act = act

    def on_step(self, run, report):
        if report.step == self.step:
            self.act()


@pytest.fixture
def photo_set(tmp_path):
    """Two bitmaps, whose size in bytes hangs on nothing but their sides, and a PNG."""
    folder = tmp_path / "photos"
    write_images(folder, 2, image_suffix=".bmp")
    draw_picture(seed=2).save(folder / "02.png")
    (folder / "02.txt").write_text("a photo of thing 2")
    return folder


@pytest.fixture
def opened(faults, small_run, photo_set, tmp_path):
    """Open the caches of a run on the photo set."""
    registry = Registry.from_plugins(faults.PLUGINS)

    def make(*more):
        words = (f"data.path={photo_set}", f"data.cache.dir={tmp_path / 'cache'}", "data.cache.latents=disk", *more)
        loaded = load(registry, overrides=small_run(tmp_path / "run", *words))
        run = assemble(loaded, registry, run_folder(loaded.options))
        wanted = wanted_entries(run, ())
        return RunCaches(run, wanted), wanted.latents

    return make


def fill(caches):
    caches.fill(lambda *_: None)


def edit_in_secret(folder, tmp_path):
    path, before = folder / "00.bmp", (folder / "00.bmp").stat()
    with Image.open(path) as picture:
        picture.putpixel((5, 5), (1, 2, 3))
        picture.save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    return ()


def save_as_jpeg(folder, tmp_path):
    with Image.open(folder / "02.png") as picture:
        picture.save(folder / "02.jpg")
    (folder / "02.png").unlink()
    return ()


CHANGES = {
    "nothing": (lambda *_: (), set()),
    "an image edited, with its size and time": (edit_in_secret, {("00.bmp", False)}),
    "PNG to JPEG": (save_as_jpeg, {("02.jpg", False)}),
    "flip": (lambda *_: ("data.flip=true",), {("00.bmp", True), ("01.bmp", True), ("02.png", True)}),
    "resolution": (
        lambda *_: ("data.resolution=96",),
        {("00.bmp", False), ("01.bmp", False), ("02.png", False)},
    ),
    "VAE": (
        lambda _, tmp_path: (f"model.path={tiny_sd1(tmp_path / 'other', seed=7)}",),
        {("00.bmp", False), ("01.bmp", False), ("02.png", False)},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES)
def test_f44_exactly_what_a_change_touches_is_encoded_again(opened, photo_set, tmp_path, change, expected):
    fill(opened()[0])
    more = change(photo_set, tmp_path)
    warm, items = opened(*more)
    assert {(item.record.name, item.flipped) for item in warm.missing_latents} == expected
    fill(warm)
    cold, _ = opened(*more, f"data.cache.dir={tmp_path / 'cold'}")
    fill(cold)
    for item in items:
        own, fresh = warm.latents.get([item]), cold.latents.get([item])
        assert torch.equal(own.mean, fresh.mean)
        assert torch.equal(own.std, fresh.std)


def only_shard(cache):
    (path,) = list_shards(cache / "latents")
    return path


def flip_bit(path):
    data, row = bytearray(path.read_bytes()), read_shard(path).index[1]
    data[row[2] + row[3] // 2] ^= 8
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def claim_other_version(path):
    path.write_bytes(path.read_bytes().replace(b'"sdtune_cache": "2"', b'"sdtune_cache": "1"'))


DAMAGE = {"bit flip": flip_bit, "cut": cut, "foreign schema version": claim_other_version, "deleted": Path.unlink}


@pytest.fixture
def own_cache(options, straight, tmp_path):
    """Give a copy of the filled cache."""
    shared = next(word for word in options if word.startswith("data.cache.dir=")).partition("=")[2]
    return Path(shutil.copytree(shared, tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_f45_what_was_spoilt_before_the_run_is_encoded_again(faults, runs, straight, own_cache, damage):
    damage(only_shard(own_cache))
    child = runs.start(f"data.cache.dir={own_cache}")
    assert child.wait() == 0, child.said.read_text()
    assert "caching latents" in child.said.read_text()
    assert runs.losses == faults.losses(straight)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip_bit, Path.unlink], ids=["bit flip", "deleted"])
def test_f45_what_is_spoilt_amid_an_epoch_ends_the_run_and_is_never_trained_on(runs, straight, own_cache, damage):
    spoil = At(2, lambda: damage(only_shard(own_cache)))
    child = runs.start(f"data.cache.dir={own_cache}", "data.workers=0", watch=[spoil])
    assert "gone or damaged; resume: they are encoded again" in runs.check_told(child, 5)
    runs.check_goes_on(straight)


def replace_picture(folder):
    draw_picture(seed=99).save(folder / "01.png")


def add_picture(folder):
    write_images(folder / "more", 1)
    draw_picture(seed=98).save(folder / "98.png")


CHANGED_MEANWHILE = {
    "deleted": lambda folder: (folder / "01.png").unlink(),
    "added": add_picture,
    "replaced": replace_picture,
}


@pytest.mark.slow
@pytest.mark.parametrize("act", CHANGED_MEANWHILE.values(), ids=CHANGED_MEANWHILE)
def test_f46_a_cached_run_does_not_care_what_becomes_of_its_images(runs, straight, faults, options, tmp_path, act):
    images = copy_of_images(options, tmp_path)
    more = (f"data.path={images.parent}", f"data.cache.dir={tmp_path / 'cache'}", "data.workers=0")
    child = runs.start(*more, watch=[At(1, lambda: act(images))])
    assert child.wait() == 0, child.said.read_text()
    assert runs.losses == faults.losses(straight)


@pytest.mark.slow
@pytest.mark.parametrize("act", CHANGED_MEANWHILE.values(), ids=CHANGED_MEANWHILE)
def test_f46_without_caches_the_changed_file_is_named(runs, options, tmp_path, act):
    images = copy_of_images(options, tmp_path)
    more = (f"data.path={images.parent}", "data.cache.latents=off", "data.workers=0")
    child = runs.start(*more, watch=[At(1, lambda: act(images))])
    if act is add_picture:
        assert child.wait() == 0, child.said.read_text()
    else:
        assert "01.png" in runs.check_told(child, 3)


def copy_of_images(options, tmp_path):
    place = next(word for word in options if word.startswith("data.path=")).partition("=")[2]
    return Path(shutil.copytree(place, tmp_path / "data")) / "3_thing"


def save_until_killed(folder, keys, limit, kills_at):
    """Save what is missing; end by SIGKILL after so many entries."""
    store = ShardStore(folder, entries=limit)
    missing = [keys[place] for place in store.missing(tensor_store.pack_keys(keys))]
    for count, key in enumerate(missing):
        if count == kills_at:
            os.kill(os.getpid(), signal.SIGKILL)
        store.save(key, {"a": torch.full((4,), float(keys.index(key)))})
        with (folder.parent / "encoded").open("a") as log:
            log.write("x")
    store.flush()


@pytest.mark.slow  # forks twenty times
def test_a_killed_build_loses_an_open_shard_at_most(faults, tmp_path):
    draws, keys, limit = random.Random(3), [tensor_store.content_key(number) for number in range(60)], 4
    folder, kills = tmp_path / "cache", 0
    while kills < 20:
        child = faults.fork(partial(save_until_killed, folder, keys, limit, draws.randrange(6)), tmp_path / "said")
        kills += child.wait() == -signal.SIGKILL
        if len(ShardStore(folder).missing(tensor_store.pack_keys(keys))) == 0:
            break
    assert faults.fork(partial(save_until_killed, folder, keys, limit, None), tmp_path / "said").wait() == 0
    assert len((tmp_path / "encoded").read_text()) <= len(keys) + kills * (limit - 1)
    store = ShardStore(folder)
    assert [store.load(key)["a"][0].item() for key in keys] == list(range(60))
    assert kills > 10


@pytest.fixture(params=["drawn", "photographs"])
def jpegs(request, tmp_path):
    """Twelve JPEG files of several megapixels' shape, smaller where they are drawn."""
    folder = tmp_path / "jpegs" / "1_thing"
    if request.param == "drawn":
        write_images(folder, 12, sizes=((160, 120), (120, 160), (128, 128)), image_suffix=".jpg")
        return folder
    if not PHOTOGRAPHS.is_dir():
        pytest.skip("the photographs are not here")
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(PHOTOGRAPHS.glob("*/*.jpg"))[:12]):
        shutil.copy(path, folder / f"{number:02d}.jpg")
        (folder / f"{number:02d}.txt").write_text("a photo of thing")
    return folder


@pytest.mark.slow
def test_proof_jpegs_are_cached_under_twenty_kills_trained_edited_and_cached_again(
    faults, small_run, jpegs, tmp_path, monkeypatch
):
    encoded, draws, limit = tmp_path / "encoded", random.Random(5), 3
    monkeypatch.setitem(ShardStore.__init__.__kwdefaults__, "entries", limit)
    words = small_run(
        tmp_path / "run", f"data.path={jpegs.parent}", "data.cache.latents=disk", "data.flip=true",
        "data.cache.text=disk", "train.steps=4",
    )  # fmt: skip
    place = f"data.cache.dir={tmp_path / 'cache'}"

    def build(kills_at, *words):
        """Count the pictures that are encoded, and kill this process before one of them."""
        left = [kills_at]

        def outer(model, pixels):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] = None if left[0] is None else left[0] - 1
            with encoded.open("a") as log:
                log.write("x" * len(pixels))
            return encode_images(model, pixels)

        kind.encode_images = outer
        return command(faults.PLUGINS, "data", "cache", *words)

    registry = Registry.from_plugins(faults.PLUGINS)
    loaded = load(registry, overrides=words)
    kind = type(assemble(loaded, registry, run_folder(loaded.options)).model)
    encode_images = kind.encode_images

    def run_build(kills_at, *more):
        child = faults.fork(partial(build, kills_at, *words, *more), tmp_path / "said.txt")
        return child.wait(), child.said.read_text()

    kills = 0
    for _ in range(20):
        kills += run_build(draws.randrange(4), place)[0] == -signal.SIGKILL
    assert run_build(None, place)[0] == 0
    assert len(encoded.read_text()) <= 24 + kills * (limit - 1)
    assert kills >= 6

    encoded.write_text("")
    run = train(faults.PLUGINS, *words, place)
    other = train(faults.PLUGINS, *words, f"data.cache.dir={tmp_path / 'cold'}", f"output.dir={tmp_path / 'cold run'}")
    assert faults.losses(run.folder.path) == faults.losses(other.folder.path)

    with Image.open(jpegs / "03.jpg") as picture:
        picture.rotate(90).save(jpegs / "03.jpg")
    (jpegs / "05.txt").write_text("another caption")
    code, said = run_build(None, place)
    assert code == 0, said
    assert encoded.read_text() == "xx"  # one picture, both ways round
    assert "text: " in said
    assert " 1 encoded now" in said
