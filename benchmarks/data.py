"""Measure the way of an image: decoding, caching, reading from the cache, and the loader's share of a step.

    python benchmarks/data.py [decode] [store] [cache] [step] [index] [--photos DIR] [--work DIR]

Without words: all of it. Photos are drawn (noise over a gradient, 12 megapixels), unless a folder of JPEG files is
given. `cache` encodes with a tiny VAE and with one of full width; `step` trains SD1.5's topology at half width (215 M
parameters in the UNet), random weights, since the tiny model's steps are too short to compare anything with. `index`
calls `data_index.py`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PARTS = ("decode", "store", "cache", "step", "index")
HALF = (160, 320, 640, 640)
SIDE = 512
FORMATS = {
    "JPEG": (".jpg", {"quality": 90}),
    "PNG": (".png", {"compress_level": 6}),
    "WebP": (".webp", {"quality": 85}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--photos", type=Path, help="a folder with JPEG files")
    parser.add_argument("--work", type=Path, help="where models and pictures are made, and kept")
    given = parser.parse_args()
    wanted = given.parts or PARTS
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        photos = given.photos or draw_photos(work / "photos")
        if "decode" in wanted:
            decode(photos, work)
        if "store" in wanted:
            store(work)
        if "cache" in wanted:
            cache(photos, work)
        if "step" in wanted:
            step(photos, work)
    if "index" in wanted and (script := Path(__file__).with_name("data_index.py")).exists():
        subprocess.run([sys.executable, script], check=True)


def draw_photos(folder: Path, count: int = 8, size: tuple[int, int] = (4000, 3000)) -> Path:
    """Write pictures with as much detail as photographs have."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        path = folder / f"{number:02d}.jpg"
        if not path.exists():
            draws = np.random.default_rng(number)
            coarse = Image.fromarray(draws.integers(0, 256, (48, 64, 3), np.uint8)).resize(
                size, Image.Resampling.BICUBIC
            )
            grain = draws.normal(0, 6, (size[1], size[0], 1))
            Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(path, quality=90)
    return folder


def rate(work: Callable[[], object], least_s: float = 3.0) -> float:
    """Give how often a second `work` can be done; the fastest third of the times counts."""
    times: list[float] = []
    while sum(times) < least_s or len(times) < 3:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    fast = sorted(times)[: max(1, len(times) // 3)]
    return len(fast) / sum(fast)


def decode(photos: Path, work: Path) -> None:
    """Images a second from a file to the pixels that the VAE sees, by one thread."""
    from sdtune.data.pictures.images import decode as decode_file
    from sdtune.data.pictures.pixels import load_pixels

    print("\n| images/s, one thread | decoded whole | as pixels of 512 px | Pillow's draft alone |")
    print("|---|--:|--:|--:|")
    source = sorted(photos.glob("*.jpg"))[0]
    for name, (suffix, options) in FORMATS.items():
        folder = work / f"as{suffix}"
        folder.mkdir(exist_ok=True)
        path = folder / f"00{suffix}"
        with Image.open(source) as picture:
            size = picture.size
            if suffix == ".jpg":
                path.write_bytes(source.read_bytes())
            else:
                picture.save(path, **options)
        record, placement = indexed(folder)[0]
        data = path.read_bytes()
        whole, pixels = rate(lambda path=path: decode_file(path)), rate(lambda: load_pixels(record, placement))  # noqa: B023
        small = f"{rate(lambda: draft(data)):.1f}" if name == "JPEG" else "-"  # noqa: B023
        print(f"| {name}, {size[0]} x {size[1]}, {len(data) / 1e6:.1f} MB | {whole:.1f} | {pixels:.1f} | {small} |")


def draft(data: bytes) -> Image.Image:
    with Image.open(BytesIO(data)) as picture:
        picture.draft("RGB", (SIDE, SIDE))
        return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


def indexed(folder: Path, side: int = SIDE):
    """Give record and placement of each image of a folder."""
    from sdtune.config.data import DataOptions
    from sdtune.data.buckets.placing import place_images
    from sdtune.data.index.building import build_index

    options = DataOptions(path=folder, resolution=str(side), captions="filename")
    index = build_index(options)
    return list(zip(index.images, place_images(index.images, options), strict=True))


def store(work: Path, count: int = 2000) -> None:
    """What keeping, finding and reading entries costs, and the memory they take."""
    from sdtune.data.caches.tensor_store import RamStore, ShardStore, content_key, pack_keys

    entry = {"mean": torch.randn(4, 64, 64), "std": torch.rand(4, 64, 64)}
    keys = [content_key(number, time.time_ns()) for number in range(count)]
    print("\n| entries of 131 kB | saved/s | looked through/s | read/s |")
    print("|---|--:|--:|--:|")
    for name, make in {"disk": lambda: ShardStore(work / f"store-{time.time_ns()}"), "memory": RamStore}.items():
        kept = make()
        start = time.perf_counter()
        for key in keys:
            kept.save(key, entry)
        kept.flush()
        saved = time.perf_counter()
        kept.missing(pack_keys(keys))
        looked = time.perf_counter()
        for key in keys:
            kept.load(key)
        done = time.perf_counter()
        times = (saved - start, looked - saved, done - looked)
        print(f"| {name} | " + " | ".join(f"{count / seconds:,.0f}" for seconds in times) + " |")
    table_memory()


def table_memory(count: int = 1_000_000, shard: int = 256) -> None:
    """The index of a million entries, made up: its time and memory."""
    from sdtune.data.caches.shard_table import ShardTable
    from sdtune.data.caches.shards import Shard

    draws = np.random.default_rng(0)
    whole = draws.integers(-(2**63), 2**63 - 1, (count, 6))
    shards = [Shard(path=Path(f"{n}"), index=whole[n : n + shard]) for n in range(0, count, shard)]
    start = time.perf_counter()
    table = ShardTable().joined(shards)
    joined_s = time.perf_counter() - start
    key = whole[77, :2].tobytes()
    finds = rate(lambda: table.find(key), 0.5)
    each = table.rows.nbytes / count
    print(f"\nindex of {count:,} entries: {each:.0f} bytes each, joined in {joined_s:.1f} s, {finds:,.0f} look-ups/s")


def cache(photos: Path, work: Path) -> None:
    """Images a second into a cache, with and without threads that decode ahead."""
    from sdtune.config.model import ModelOptions
    from sdtune.data.caches.latents import LatentCache, LatentItem
    from sdtune.data.caches.tensor_store import RamStore
    from sdtune.models.open import open_model
    from sdtune.plugins import Registry
    from sdtune.testing.full import full_model
    from sdtune.testing.tiny import tiny_sd1

    print("\n| images/s into the cache | no threads | 2 threads | 4 threads |")
    print("|---|--:|--:|--:|")
    tiny, full = work / "tiny", work / "full.safetensors"
    if not tiny.exists():
        tiny_sd1(tiny)
    if not full.exists():
        full_model(full, "sd1", torch.float16)
    for name, (path, side, count) in {
        "tiny VAE, 512 px": (tiny, 512, 8),
        "VAE of full width, 256 px": (full, 256, 2),
    }.items():
        items = [LatentItem(record=record, placement=placement) for record, placement in indexed(photos, side)][:count]
        registry = Registry.from_plugins([])
        model = open_model(
            ModelOptions(path=str(path)), dtype=torch.float32, device=torch.device("cpu"), registry=registry
        )
        model.load("vae")
        rates = []
        for workers in (0, 2, 4):
            kept = LatentCache(RamStore(), vae_digest="v", dtype=torch.float32, alpha_color="white")
            start = time.perf_counter()
            kept.fill(items, model.encode_images, workers=workers)
            rates.append(len(items) / (time.perf_counter() - start))
        print(f"| {name} | " + " | ".join(f"{each:.2f}" for each in rates) + " |", flush=True)


def step(photos: Path, work: Path, steps: int = 10) -> None:
    """What part of a step waits for its inputs."""
    import sdtune_lora
    from sdtune.testing.runner import train
    from sdtune.testing.tiny import tiny_model

    model = work / "half"
    if not model.exists():
        tiny_model(model, "sd1", widths=HALF)
    print("\n| SD1.5 at half width, LoRA, batch 1, 256 px | s/step | waiting | share |\n|---|--:|--:|--:|")
    for name, words in {
        "caches, 2 threads": (),
        "caches, no threads": ("data.workers=0",),
        "no caches, 2 threads": ("data.cache.latents=off", "data.cache.text=off"),
        "no caches, no threads": ("data.cache.latents=off", "data.cache.text=off", "data.workers=0"),
    }.items():
        with timed_feed() as waits, tempfile.TemporaryDirectory() as out:
            train(
                [sdtune_lora], "method=lora", f"model.path={model}", f"data.path={photos}", "data.captions=filename",
                "data.resolution=256", f"output.dir={out}/run", f"data.cache.dir={work / 'cache'}", "lora.rank=16",
                "lora.text_encoder=false", f"train.steps={steps}", "train.lr=1e-4", "log.tensorboard=false", *words,
            )  # fmt: skip
        ends = [end for _, end in waits[2:]]  # the first steps warm things up
        whole = (ends[-1] - ends[0]) / (len(ends) - 1)
        waiting = sum(end - start for start, end in waits[3:]) / (len(ends) - 1)
        print(f"| {name} | {whole:.2f} | {1000 * waiting:.1f} ms | {waiting / whole:.1%} |", flush=True)


class timed_feed:  # noqa: N801
    """Note when each step asks for its inputs, and when it has them."""

    def __enter__(self) -> list[tuple[float, float]]:
        from sdtune.train.inputs.source import InputSource

        self.inner, waits = InputSource.feed, []

        def feed(source: InputSource, first: int) -> Iterator[object]:
            inputs = self.inner(source, first)
            while True:
                start = time.perf_counter()
                try:
                    found = next(inputs)
                except StopIteration:
                    return
                waits.append((start, time.perf_counter()))
                yield found

        InputSource.feed = feed
        return waits

    def __exit__(self, *_: object) -> None:
        from sdtune.train.inputs.source import InputSource

        InputSource.feed = self.inner


if __name__ == "__main__":
    main()
