"""`data.path: demo` is five drawings with captions, drawn once."""

from pathlib import Path

import sdtune_lora
from sdtune.config.compose import load
from sdtune.demo.images import with_demo_images
from sdtune.plugins import Registry

REGISTRY = Registry.from_plugins([sdtune_lora])


def test_demo_data_is_drawn_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SDTUNE_CACHE_DIR", str(tmp_path))
    loaded = with_demo_images(load(REGISTRY, overrides=["method=lora", "data.path=demo"]))
    names = sorted(path.name for path in loaded.options.data.path.iterdir())
    assert names == sorted(f"{number}.{suffix}" for number in range(5) for suffix in ("png", "txt"))


def test_other_data_is_left_alone():
    loaded = load(REGISTRY, overrides=["method=lora", "data.path=demos"])
    assert with_demo_images(loaded) is loaded
    assert loaded.options.data.path == Path("demos")
