"""The demonstration: teach the demo model one drawn creature, and measure what it learned."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from sdtune.demo.images import write_images
from sdtune.demo.judge import likeness, load_judge
from sdtune.demo.scenes import TOY, TRIGGER
from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from sdtune.plugins import Registry
    from sdtune.specs import MethodSpec
    from sdtune.train.launch import Screen

_PARTS = ("images", "run", "webui")
_SUBJECT_PROMPTS = (
    f"a photo of a {TRIGGER} {TOY} on a white background",
    f"a photo of a {TRIGGER} {TOY} on a pink background",
    f"a photo of a {TRIGGER} {TOY} on a black background",
)
_CONTROL_PROMPT = "a photo of a red star on a white background"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """How a demonstration went.

    Attributes:
        before: Mean likeness of the base model's pictures to the subject, in [-1, 1].
        after: The same of the trained model's pictures.
        grid: Pictures before and after.
        file: What was learned, in the webui folder.
        usage: What to write into the prompt.
        seconds: How long it took.
    """

    before: float
    after: float
    grid: Path
    file: Path
    usage: str
    seconds: float

    def render(self) -> str:
        """Tell it in a few lines."""
        return "\n".join(
            [
                f"likeness to the {TRIGGER} {TOY}, from -1 to 1: {self.before:.2f} before, {self.after:.2f} after",
                f"pictures: {self.grid}",
                f"file: {self.file}",
                self.usage,
                f"took {self.seconds:.0f} s",
            ]
        )


def show(
    registry: Registry,
    screen: Screen,
    folder: Path,
    *,
    method: str = "",
    steps: int | None = None,
    overwrite: bool = False,
) -> Demonstration:
    """Run the demonstration in `folder`.

    Args:
        registry: Where methods are looked up.
        screen: What it says while it goes on.
        folder: Made for it.
        method: The method that is shown; empty: the usual one.
        steps: Optimizer steps; None: as the method says.
        overwrite: Do it again over an earlier demonstration.

    Raises:
        ConfigError: The method has no settings for the demonstration; or
            `folder` holds something, and `overwrite` is off, or it is more than an earlier demonstration.
    """
    from sdtune.config.compose import load
    from sdtune.export.deliver import carry_out, plan_delivery
    from sdtune.train.launch import start

    started = time.perf_counter()
    _make_room(folder, overwrite=overwrite)
    images, run = folder / "images", folder / "run"
    loaded = load(registry, overrides=_options(registry.method(method), images, run, steps))
    write_images(images)
    trained = start(loaded, registry, screen)
    delivery = plan_delivery(run, to="webui", root=folder / "webui", create=True)
    carry_out(delivery)
    return Demonstration(
        before=_score(run / "previews", images, 0),
        after=_score(run / "previews", images, trained.timetable.steps),
        grid=trained.folder.grid,
        file=delivery.files[0].target,
        usage=delivery.usage,
        seconds=time.perf_counter() - started,
    )


def _make_room(folder: Path, *, overwrite: bool) -> None:
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if found and not overwrite:
        raise ConfigError("an earlier demo is in the way", where=str(folder), hint="--overwrite, or another --output")
    if found - set(_PARTS):
        raise ConfigError("the folder holds more than a demo", where=str(folder), hint="choose another --output")
    for name in _PARTS:
        shutil.rmtree(folder / name, ignore_errors=True)


def _options(spec: MethodSpec, images: Path, run: Path, steps: int | None) -> list[str]:
    prompts = ", ".join(f'"{prompt}"' for prompt in (*_SUBJECT_PROMPTS, _CONTROL_PROMPT))
    if not spec.demo:
        raise ConfigError(f"method '{spec.name}' has no settings for the demo", hint="choose another --method")
    return [
        f"method={spec.name}",
        "model.path=demo",
        f"data.path={images}",
        "data.cache.latents=ram",
        f"output.dir={run}",
        f"output.name={TRIGGER}-{TOY}",
        f"preview.prompts=[{prompts}]",
        "preview.cfg=4",
        *spec.demo,
        *([] if steps is None else [f"train.steps={steps}"]),
    ]


def _score(previews: Path, images: Path, step: int) -> float:
    """Give the mean likeness of the subject's pictures after a step to the training pictures, in [-1, 1]."""
    from sdtune.train.watching.previews import preview_path

    references = [Image.open(path) for path in sorted(images.glob("*.png"))]
    pictures = [Image.open(preview_path(previews, step, number)) for number in range(len(_SUBJECT_PROMPTS))]
    found = likeness(load_judge(), pictures, references)
    return sum(found) / len(found)
