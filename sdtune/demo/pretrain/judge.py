"""The judge stage: trained on drawings only, never on anything the model made."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate

from sdtune.demo.judge import BACKGROUND_NAMES, COLOUR_NAMES, OTHER, SHAPE_NAMES, Judge
from sdtune.demo.pretrain.loop import Schedule, Stage, generator, record
from sdtune.demo.pretrain.pictures import VIEWS, rendered, to_unit, toy_view
from sdtune.demo.scenes import draw_scene, sample_scene, scribble

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

logger = logging.getLogger(__name__)
_SEED = 14
_BATCH, _LR = 96, 2e-3
_SCENES, _SCRIBBLES, _TOYS = 24_000, 3_000, 2_500
_IGNORED = -100
_TEMPERATURE = 0.1


def _any_picture(seed: int, index: int) -> Image.Image:
    return draw_scene(sample_scene(seed, index, "all"))


def scene_labels(seed: int, count: int) -> torch.Tensor:
    """Return (count, 3) class indices of shape, colour and background."""
    scenes = [sample_scene(seed, index, "all") for index in range(count)]
    rows = [
        (SHAPE_NAMES.index(s.shape), COLOUR_NAMES.index(s.colour), BACKGROUND_NAMES.index(s.background)) for s in scenes
    ]
    return torch.from_numpy(np.array(rows))


def degraded(pixels: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Return pixels with noise, a colour cast and blur of random strength, as a generated picture may have."""
    kind = int(torch.randint(4, (1,), generator=rng))
    if kind == 1:
        pixels = avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
    if kind == 2:
        side = int(torch.randint(24, 48, (1,), generator=rng))
        pixels = interpolate(interpolate(pixels, size=side, mode="area"), size=64, mode="bilinear")
    strength = torch.rand((len(pixels), 1, 1, 1), generator=rng) * 0.12
    coarse = interpolate(torch.randn((len(pixels), 3, 16, 16), generator=rng), size=64, mode="bilinear")
    cast = torch.randn((len(pixels), 3, 1, 1), generator=rng) * 0.04
    noise = torch.randn(pixels.shape, generator=rng) * 0.5 + coarse
    return (pixels + strength * noise + cast).clamp(-1, 1)


def _same_toy_loss(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """InfoNCE (van den Oord et al. 2018, equation 4) over pairs of views of the same toy, both ways."""
    logits = first @ second.T / _TEMPERATURE
    target = torch.arange(len(first))
    return 0.5 * (cross_entropy(logits, target) + cross_entropy(logits.T, target))


def train_judge(work: Path, *, steps: int) -> Judge:
    """Train (or resume) the judge on the CPU, measure it on fresh drawings, save it under the work folder."""
    torch.manual_seed(_SEED)
    judge = Judge()
    pool = rendered(work, "judge-scenes", _any_picture, _SEED, _SCENES)
    other = rendered(work, "judge-scribbles", scribble, _SEED, _SCRIBBLES)
    toys = rendered(work, "judge-toys", toy_view, _SEED, _TOYS * VIEWS)
    labels = scene_labels(_SEED, _SCENES)
    none = torch.full((_BATCH // 8, 3), _IGNORED)
    none[:, 0] = SHAPE_NAMES.index(OTHER)

    def compute_loss(step: int) -> torch.Tensor:
        rng = generator(_SEED, step)
        rows = torch.randint(_SCENES, (_BATCH,), generator=rng)
        pixels = torch.cat([pool[rows], other[torch.randint(_SCRIBBLES, (len(none),), generator=rng)]])
        shapes, colours, backgrounds, _ = judge(degraded(to_unit(pixels), rng))
        target = torch.cat([labels[rows], none])
        told = zip((shapes, colours, backgrounds), target.T, strict=True)
        loss = sum(cross_entropy(logits, wanted, ignore_index=_IGNORED) for logits, wanted in told)
        chosen = torch.randperm(_TOYS, generator=rng)[: _BATCH // 2] * VIEWS
        views = torch.cat([chosen + int(v) for v in torch.randperm(VIEWS, generator=rng)[:2]])
        embedded = judge(degraded(to_unit(toys[views]), rng))[3]
        return loss + 0.3 * _same_toy_loss(*embedded.chunk(2))

    Stage("judge", judge, Schedule(steps=steps, lr=_LR, warmup=50), work).run(compute_loss, log_every=100)
    save_file({name: value.half() for name, value in judge.state_dict().items()}, work / "judge.safetensors")
    accuracy = judge_accuracy(judge.eval(), work, seed=_SEED + 1, count=4000)
    logger.info("judge: %s", accuracy)
    record(work, "judge", batch=_BATCH, accuracy_on_fresh_drawings=accuracy)
    return judge


@torch.no_grad()
def judge_accuracy(judge: Judge, work: Path, *, seed: int, count: int) -> dict[str, float]:
    """Return the judge's accuracy on drawings it has never seen."""
    pixels = to_unit(rendered(work, "judge-test", _any_picture, seed, count))
    guesses = torch.stack([part.argmax(-1) for part in judge(pixels)[:3]], dim=1)
    hits = (guesses == scene_labels(seed, count)).float().mean(0)
    return {name: round(float(hit), 4) for name, hit in zip(("shape", "colour", "background"), hits, strict=True)}
