"""What a run needs on the disk, against what it then writes."""

import shutil

import pytest

import sdtune_lora
from sdtune.config.compose import load
from sdtune.errors import PlatformError
from sdtune.plugins import Registry
from sdtune.testing.images import write_images
from sdtune.testing.runner import train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.assembly.assembling import assemble
from sdtune.train.run import run_folder
from sdtune.train.saving.checkpoint import list_checkpoints
from sdtune.train.space import check_space, describe_saving, disk_need

PLUGINS = [sdtune_lora]


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space")
    write_images(folder / "data", 2)
    return [
        "method=lora",
        f"model.path={tiny_sd1(folder / 'tiny')}",
        f"data.path={folder / 'data'}",
        f"data.cache.dir={folder / 'cache'}",
        "data.resolution=64",
        "train.steps=4",
        "lora.rank=16",
        "log.tensorboard=false",
        f"output.dir={folder / 'run'}",
    ]


def assembled(*options):
    registry = Registry.from_plugins(PLUGINS)
    loaded = load(registry, overrides=options)
    return assemble(loaded, registry, run_folder(loaded.options))


def size_of(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [(), ("train.ema.decay=0.9",), ("train.optimizer.name=adamw8bit",), ("train.weights=bf16",)]
)
def test_the_estimate_is_what_is_written(options, tmp_path, more):
    words = [*options, *more, f"output.dir={tmp_path / 'run'}", "save.every_steps=1"]
    need = disk_need(assembled(*words))
    run = train(PLUGINS, *words)
    written = [size_of(path) for path in list_checkpoints(run.folder.checkpoints)]
    assert need.checkpoint == pytest.approx(written[0], rel=0.1)
    assert need.checkpoints == 3 * need.checkpoint
    assert need.exports == pytest.approx(size_of(run.folder.exports), rel=0.15)  # a small file is half names


@pytest.mark.slow
def test_each_kind_is_counted(options):
    plain = disk_need(assembled(*options))
    ram = disk_need(assembled(*options, "data.cache.latents=ram", "data.cache.text=ram"))
    flipped = disk_need(assembled(*options, "data.flip=true"))
    both = disk_need(assembled(*options, "train.ema.decay=0.9", "train.ema.export=both"))
    assert ram.caches == 0
    assert flipped.latents == 2 * plain.latents > 0
    assert both.exports == 2 * plain.exports


@pytest.mark.slow
def test_too_little_is_told_by_kind(options, monkeypatch):
    run = assembled(*options)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(PlatformError, match=r"about .* \(checkpoints .*, exports .*\), and 1 kB are free; make room"):
        check_space(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "cost"),
    [
        ((), "a crash costs 5 minutes at most"),
        (("save.every_minutes=2", "save.every_steps=100"), "every 100 steps and every 2 minutes"),
        (("save.every_minutes=null",), "a crash costs the whole run"),
    ],
)
def test_the_plan_tells_what_a_crash_costs(options, more, cost):
    assert cost in describe_saving(assembled(*options, *more))
