"""Measure what the index of a data set costs against the number of images: time, CPU time and memory.

    python benchmarks/data_index.py [--counts 1000 10000 100000] [--entries 1000000] [--folder DIR]

Real small JPEGs with a caption file each, in one folder and in many; each reading in a process of its own: first
without a memory of an earlier one (cold; the files are in the page cache), then with it (warm). At last, entries that
are made up go through everything between the index and the first batch. Memory is what the process grew by, at its
peak, for each image.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PER_FOLDER = 100
_CAPTION = "a photo of zwx dog number {}, sitting on the grass in front of a house, sunny day, detailed fur"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", nargs="*", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--entries", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where the files are made, and kept")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(*given.measure, workers=given.workers)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        print_table(given.folder or Path(temporary), given.counts, given.entries, given.workers)


def print_table(folder: Path, counts: Sequence[int], entries: Sequence[int], workers: int = 2) -> None:
    """Print all rows as a table of Markdown."""
    print("| images | in folders of | | s | CPU s | bytes of memory an image |\n|--:|--:|---|--:|--:|--:|")
    for count in counts:
        for per_folder in (count, PER_FOLDER):
            place = folder / f"{count}-{per_folder}"
            write(place, count, per_folder)
            for form in ("cold", "warm"):
                print(
                    row(count, per_folder, form, str(place), str(folder / f"cache-{place.name}"), workers), flush=True
                )
    for count in entries:
        print(row(count, count // 10, "made up", str(count), "", workers), flush=True)


def row(count: int, per_folder: int, form: str, place: str, cache: str, workers: int) -> str:
    """Measure in a process of its own."""
    words = [sys.executable, __file__, "--workers", str(workers), "--measure", form, place, cache]
    found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    memory = f"{found['bytes'] / count:,.0f}"
    return f"| {count:,} | {per_folder:,} | {form} | {found['s']:.2f} | {found['cpu_s']:.2f} | {memory} |"


def measure(form: str, place: str, cache: str, *, workers: int) -> dict[str, float]:
    """Measure one reading, or one walk through entries that are made up."""
    from sdtune.config.cache import CacheOptions
    from sdtune.config.data import DataOptions
    from sdtune.data.index.building import build_index
    from sdtune.testing.large import go_through, make_index

    work: Callable[[], object]
    if form == "made up":
        work = lambda: go_through(make_index(int(place)))  # noqa: E731  # one of two
    else:
        options = DataOptions(path=Path(place), cache=CacheOptions(dir=Path(cache)), workers=workers)
        work = lambda: build_index(options)  # noqa: E731
    before, start, cpu = peak_bytes(), time.perf_counter(), time.process_time()
    result = work()
    found = {"s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu, "bytes": peak_bytes() - before}
    assert result
    return found


def peak_bytes() -> int:
    """Give the largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write(place: Path, count: int, per_folder: int) -> None:
    """Write small JPEGs, all different, each with a caption, if they are not there."""
    from sdtune.testing.images import draw_picture

    if place.exists():
        return
    contents = []
    for seed, size in enumerate([(64, 64), (96, 64), (64, 96)] * 4):
        buffer = io.BytesIO()
        draw_picture(size, seed=seed).save(buffer, "JPEG")
        contents.append(buffer.getvalue())
    for number in range(count):
        folder = place / f"1_dog{number // per_folder}"
        if number % per_folder == 0:
            folder.mkdir(parents=True)
        (folder / f"{number:07d}.jpg").write_bytes(contents[number % len(contents)] + b"%d" % number)
        (folder / f"{number:07d}.txt").write_text(_CAPTION.format(number))
    time.sleep(2)  # what changed just before it is read is not remembered


if __name__ == "__main__":
    main()
