"""The demo data: five drawings of the subject with their captions, drawn when they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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


def write_images(folder: Path) -> None:
    """Draw the subject's pictures with their captions into a new folder."""
    with writing_folder(folder) as draft:
        for number, (picture, caption) in enumerate(subject_images()):
            picture.save(draft / f"{number}.png")
            (draft / f"{number}.txt").write_text(caption + "\n", encoding="utf-8")
