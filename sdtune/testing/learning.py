"""Does a method learn? Train it on the demo model with five drawings of a toy that model never saw, and measure.

Scores come from the judge, a classifier trained on drawings alone: likeness to the toy, in [-1, 1]. The base model's
pictures score about 0.1, other toys at most 0.6, the toy's own other views 0.8 to 1.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdtune.testing.runner import train

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from PIL import Image

    from sdtune.plugins import Registry
    from sdtune.train.run import Run

PLACES = ("on a white background", "on a pink background", "on a black background")


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """How a training on the demo model went.

    Attributes:
        run: The finished run.
        before: Mean likeness of the base model's pictures to the toy, in [-1, 1].
        after: The same of the trained model's.
        kept: Share of pictures of other things, asked for after training, that the judge recognises, in [0, 1].
        seconds: Wall time of the training, pictures included.
    """

    run: Run
    before: float
    after: float
    kept: float
    seconds: float


def learn(
    plugins: Iterable[object] | Registry,
    folder: Path,
    *overrides: str,
    subject: str = "zwx toy",
    control: Sequence[tuple[str, str]] = (("red", "star"), ("blue", "square")),
) -> Learned:
    """Train in `folder`, with pictures before and after.

    Args:
        plugins: Plugin modules that bring the method, or a registry.
        folder: An empty folder.
        overrides: Options, `method` and a length at least; model, data, output and pictures are set here.
        subject: What calls the toy in a prompt, after `a photo of a`.
        control: Colour and shape of things the model must still know.
    """
    from sdtune.demo.images import write_images

    images, output = folder / "images", folder / "run"
    write_images(images)
    prompts = [f"a photo of a {subject} {place}" for place in PLACES]
    prompts += [f"a photo of a {colour} {shape} on a white background" for colour, shape in control]
    listed = ", ".join(f'"{prompt}"' for prompt in prompts)
    started = time.perf_counter()
    run = train(
        plugins,
        "model.path=demo",
        f"data.path={images}",
        "data.cache.latents=ram",
        f"output.dir={output}",
        "output.name=toy",
        f"preview.prompts=[{listed}]",
        "preview.cfg=4",
        *overrides,
    )
    seconds = time.perf_counter() - started
    count, last = len(PLACES), run.timetable.steps
    return Learned(
        run=run,
        before=_likeness(_pictures(run, 0)[:count], images),
        after=_likeness(_pictures(run, last)[:count], images),
        kept=_recognised(_pictures(run, last)[count:], control),
        seconds=seconds,
    )


def _pictures(run: Run, step: int) -> list[Image.Image]:
    from sdtune.train.watching.previews import preview_path

    count = len(run.options.preview.prompts)
    return [_opened(preview_path(run.folder.previews, step, number)) for number in range(count)]


def _opened(path: Path) -> Image.Image:
    """Read a picture whole, so that no file stays open."""
    from PIL import Image

    with Image.open(path) as picture:
        return picture.convert("RGB")


def _likeness(pictures: Sequence[Image.Image], images: Path) -> float:
    from sdtune.demo.judge import likeness, load_judge

    references = [_opened(path) for path in sorted(images.glob("*.png"))]
    found = likeness(load_judge(), pictures, references)
    return sum(found) / len(found)


def _recognised(pictures: Sequence[Image.Image], control: Sequence[tuple[str, str]]) -> float:
    from sdtune.demo.judge import classify, load_judge

    verdicts = classify(load_judge(), pictures)
    hits = [(verdict.colour, verdict.shape) == tuple(wanted) for verdict, wanted in zip(verdicts, control, strict=True)]
    return sum(hits) / len(hits)


def class_drift(run: Run, images: Path, *, prompt: str = "a photo of a toy", count: int = 8) -> float:
    """Measure how much pictures of the class alone have become the subject: mean likeness, in [-1, 1].

    Args:
        run: A finished run.
        images: The subject's images.
        prompt: What calls the class.
        count: Pictures drawn.
    """
    from sdtune.data.types import Size
    from sdtune.sampling.request import PictureRequest
    from sdtune.sampling.sampler import sample

    size = Size(*run.options.data.size_px)
    requests = [PictureRequest(prompt=prompt, seed=100 + n, size=size, cfg=4) for n in range(count)]
    return _likeness(sample(run.model, requests), images)
