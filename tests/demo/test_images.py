"""`data.path: demo` is five drawings with captions, drawn once."""

from pathlib import Path

import sdtune_lora
from sdtune.config.compose import load
from sdtune.demo.images import demo_settings, with_demo_images
from sdtune.plugins import Registry

REGISTRY = Registry.from_plugins([sdtune_lora])


def test_demo_data_is_drawn_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SDTUNE_CACHE_DIR", str(tmp_path))
    loaded = with_demo_images(load(REGISTRY, overrides=["method=lora", "data.path=demo"]))
    names = sorted(path.name for path in loaded.options.data.path.iterdir())
    assert names == sorted(f"{number}.{suffix}" for number in range(5) for suffix in ("png", "txt"))


def test_settings_of_the_demo_give_way_to_the_user():
    loaded = load(REGISTRY, overrides=["method=lora", "data.path=demo", "train.epochs=3", "lora.rank=4"])
    settings = {word.partition("=")[0] for word in demo_settings(loaded)}
    assert "train.lr" in settings
    assert settings & {"train.steps", "lora.rank"} == set()


def test_other_data_is_left_alone():
    loaded = load(REGISTRY, overrides=["method=lora", "data.path=demos"])
    assert with_demo_images(loaded) is loaded
    assert loaded.options.data.path == Path("demos")
