"""The demo data: five drawings of the subject with their captions, and the settings under which a method learns it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdtune.config.dump import DEFAULT
from sdtune.demo.scenes import subject_images
from sdtune.files import writing_folder
from sdtune.paths import user_cache_folder

if TYPE_CHECKING:
    from sdtune.config.compose import Loaded

DEMO = Path("demo")


def with_demo_images(loaded: Loaded) -> Loaded:
    """Put the folder of the demo data in the place of `data.path: demo`; draw it when it is not there yet."""
    from dataclasses import replace

    data = loaded.options.data
    if data.path != DEMO:
        return loaded
    folder = user_cache_folder() / "images" / "demo"
    if not folder.is_dir():
        write_images(folder)
    options = loaded.options.model_copy(update={"data": data.model_copy(update={"path": folder})})
    return replace(loaded, options=options)


def demo_settings(loaded: Loaded) -> list[str]:
    """List the method's settings for the demo data (`a.b=c`) that the user has not chosen otherwise."""
    lengths = ("train.steps", "train.epochs")
    chosen = {name for name, origin in loaded.origins.items() if origin != DEFAULT}
    if chosen & set(lengths):
        chosen |= set(lengths)
    return [word for word in loaded.spec.demo if word.partition("=")[0] not in chosen]


def write_images(folder: Path) -> None:
    """Draw the subject's pictures with their captions into a new folder."""
    with writing_folder(folder) as draft:
        for number, (picture, caption) in enumerate(subject_images()):
            picture.save(draft / f"{number}.png")
            (draft / f"{number}.txt").write_text(caption + "\n", encoding="utf-8")
