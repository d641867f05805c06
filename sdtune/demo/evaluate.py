"""The demo model's examination: prompts it never saw, one picture each, graded by the judge."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image

from sdtune.demo.captions import describe
from sdtune.demo.drawing import SIZE_PX
from sdtune.demo.figures import COLOURS, SHAPES
from sdtune.demo.judge import COLOUR_NAMES, SHAPE_NAMES, Judge, classify, load_judge
from sdtune.demo.scenes import BACKGROUNDS, Scene, is_held_out, is_held_out_pair, sample_scene

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdtune.demo.judge import Verdict

MODEL = Path(__file__).with_name("model")
_SEED = 18
_PAIR_PROMPTS_OF = 4  # one prompt in four asks for a shape in a colour it was never trained in
_BATCH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutPrompt:
    """A prompt whose combination of shape, colour and background is not in the training data."""

    text: str
    scene: Scene
    is_unseen_pair: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the pictures are made: DPM++ 2M Karras."""

    steps: int = 25
    guidance: float = 4.5
    seed: int = 0


def held_out_prompts(count: int = 200) -> list[HeldOutPrompt]:
    """Return prompts over the held-out combinations in turn; a quarter of them are unseen pairs of shape and colour."""
    pairs = [(s, c, "") for s in SHAPES for c in COLOURS if is_held_out_pair(s, c)]
    triples = [
        (s, c, b) for s in SHAPES for c in COLOURS for b in BACKGROUNDS
        if b != c and is_held_out(s, c, b) and not is_held_out_pair(s, c)
    ]  # fmt: skip
    shuffled = np.random.default_rng(_SEED).permutation(len(triples))
    prompts = []
    for index in range(count):
        is_pair = index % _PAIR_PROMPTS_OF == 0
        turn = index // _PAIR_PROMPTS_OF if is_pair else index - index // _PAIR_PROMPTS_OF - 1
        wanted = pairs[turn % len(pairs)] if is_pair else triples[int(shuffled[turn % len(triples)])]
        prompts.append(_prompt(index, *wanted))
    return prompts


def _prompt(index: int, shape: str, colour: str, background: str) -> HeldOutPrompt:
    rng = np.random.default_rng([_SEED, index])
    drawn = sample_scene(_SEED, index, "all")
    background = background or str(rng.choice([name for name in BACKGROUNDS if name != colour]))
    fields = {name: getattr(drawn, name) for name in ("size", "position", "texture", "background_texture", "style")}
    scene = Scene(shape=shape, colour=colour, background=background, key=drawn.key, **fields)
    extras = [name for name in ("size", "position", "texture", "style") if rng.random() < 0.35]
    text = describe(scene, rng, frozenset(["shape", "colour", "background", *extras]))
    return HeldOutPrompt(text=text, scene=scene, is_unseen_pair=is_held_out_pair(shape, colour))


def load_pipeline(model: Path = MODEL, *, device: str = "cpu") -> StableDiffusionPipeline:
    """Return the model as a float32 pipeline with the DPM++ 2M Karras sampler."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32, local_files_only=True)
    config = pipeline.scheduler.config
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True)
    pipeline.set_progress_bar_config(disable=True)
    return cast("StableDiffusionPipeline", pipeline.to(device))


def generate(pipeline: StableDiffusionPipeline, texts: Sequence[str], sampling: Sampling) -> list[Image.Image]:
    """Return one 64 x 64 picture per text; picture i starts from the noise of seed + i whatever the batch."""
    pictures: list[Image.Image] = []
    for start in range(0, len(texts), _BATCH):
        part = list(texts[start : start + _BATCH])
        noise = [torch.Generator().manual_seed(sampling.seed + start + i) for i in range(len(part))]
        made = pipeline(
            part, height=SIZE_PX, width=SIZE_PX, num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance, generator=noise,
        )  # fmt: skip
        pictures += made.images
    return pictures


def grade(prompts: Sequence[HeldOutPrompt], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return accuracies (of all prompts and of the unseen pairs) and confusion counts {asked: {seen: count}}."""
    graded = list(zip(prompts, verdicts, strict=True))
    unseen = [pair for pair in graded if pair[0].is_unseen_pair]
    return {
        "all": _accuracies(graded),
        "unseen_pairs": _accuracies(unseen),
        "colour_confusion": _confusion([(p.scene.colour, v.colour) for p, v in graded]),
        "shape_confusion": _confusion([(p.scene.shape, v.shape) for p, v in graded]),
    }


def _accuracies(graded: Sequence[tuple[HeldOutPrompt, Verdict]]) -> dict[str, float]:
    colour = [p.scene.colour == v.colour for p, v in graded]
    shape = [p.scene.shape == v.shape for p, v in graded]
    background = [p.scene.background == v.background for p, v in graded]
    both = [c and s for c, s in zip(colour, shape, strict=True)]
    columns = {"colour": colour, "shape": shape, "both": both, "background": background}
    shares = {name: round(sum(hits) / max(1, len(hits)), 4) for name, hits in columns.items()}
    return {"prompts": len(graded), **shares}


def _confusion(pairs: Sequence[tuple[str, str]]) -> dict[str, dict[str, int]]:
    table: dict[str, Counter[str]] = {}
    for asked, seen in pairs:
        table.setdefault(asked, Counter())[seen] += 1
    return {asked: dict(counts) for asked, counts in sorted(table.items())}


def confusion_markdown(table: dict[str, dict[str, int]], columns: Sequence[str]) -> str:
    """Return a confusion table as Markdown: a row for what was asked, a column for what the judge saw."""
    lines = ["| asked \\ seen | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    for asked in (name for name in columns if name in table):
        cells = [str(table[asked].get(seen, "·")) for seen in columns]
        lines.append(f"| {asked} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def picture_grid(pictures: Sequence[Image.Image], *, columns: int = 10, gap_px: int = 2) -> Image.Image:
    """Return pictures of equal size side by side on white."""
    side = pictures[0].width + gap_px
    rows = -(-len(pictures) // columns)
    grid = Image.new("RGB", (columns * side + gap_px, rows * side + gap_px), "white")
    for i, picture in enumerate(pictures):
        grid.paste(picture, (gap_px + i % columns * side, gap_px + i // columns * side))
    return grid


def evaluate(model: Path, out: Path, *, count: int = 200, sampling: Sampling | None = None) -> dict[str, Any]:
    """Examine a model; write report.json, confusion tables, prompts and pictures under `out`; return the report."""
    sampling = sampling or Sampling()
    prompts, judge = held_out_prompts(count), load_judge()
    pipeline = load_pipeline(model)
    started = time.monotonic()
    pictures = generate(pipeline, [p.text for p in prompts], sampling)
    seconds = round(time.monotonic() - started, 1)
    report = grade(prompts, classify(judge, pictures))
    report |= {"sampling": asdict(sampling), "seconds": seconds, "hardware": _hardware()}
    _write(out, report, prompts, pictures, judge)
    return report


def _hardware() -> str:
    return f"{torch.get_num_threads()} threads of {os.cpu_count()} CPU cores ({platform.machine()})"


def _write(
    out: Path, report: dict[str, Any], prompts: Sequence[HeldOutPrompt], pictures: Sequence[Image.Image], judge: Judge
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    tables = [("colour_confusion", COLOUR_NAMES), ("shape_confusion", SHAPE_NAMES)]
    text = "\n".join(f"{name}\n\n{confusion_markdown(report[name], columns)}" for name, columns in tables)
    (out / "confusion.md").write_text(text)
    verdicts = classify(judge, pictures)
    lines = [f"{i}\t{p.text}\t{v.colour} {v.shape}" for i, (p, v) in enumerate(zip(prompts, verdicts, strict=True))]
    (out / "prompts.tsv").write_text("\n".join(lines) + "\n")
    picture_grid(pictures, columns=20).save(out / "pictures.png")


def main() -> None:
    """Examine a model folder from the command line."""
    parser = argparse.ArgumentParser(prog="python -m sdtune.demo.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="diffusers folder (the shipped model)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the report and the pictures")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--steps", type=int, default=Sampling().steps)
    parser.add_argument("--guidance", type=float, default=Sampling().guidance)
    parser.add_argument("--seed", type=int, default=Sampling().seed)
    options = parser.parse_args()
    sampling = Sampling(steps=options.steps, guidance=options.guidance, seed=options.seed)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    report = evaluate(options.model, options.out, count=options.prompts, sampling=sampling)
    logging.info(json.dumps({key: report[key] for key in ("all", "unseen_pairs", "seconds")}))


if __name__ == "__main__":
    main()
