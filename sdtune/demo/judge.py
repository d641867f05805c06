"""The judge: a small classifier, trained on drawings alone, that says what a picture shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from sdtune.demo.drawing import SIZE_PX
from sdtune.demo.figures import COLOURS
from sdtune.demo.scenes import BACKGROUNDS, NOUNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

WEIGHTS = Path(__file__).with_name("judge.safetensors")
OTHER = "other"  # scribbles and ruins: none of the nouns
SHAPE_NAMES = (*NOUNS, OTHER)
COLOUR_NAMES = tuple(COLOURS)
BACKGROUND_NAMES = tuple(BACKGROUNDS)
_EMBEDDING = 64
_CHANNELS = (24, 48, 64, 96, 96)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the judge sees in one picture."""

    shape: str
    colour: str
    background: str


class Judge(nn.Module):
    """Five convolutions, three heads and an embedding in which pictures of the same toy lie close."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (inside, outside) in enumerate(zip((3, *_CHANNELS), _CHANNELS, strict=False)):
            layers += [nn.Conv2d(inside, outside, 3, stride=2 if i < 4 else 1, padding=1)]
            layers += [nn.GroupNorm(8, outside), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        width = 4 * _CHANNELS[-1]
        self.shape = nn.Linear(width, len(SHAPE_NAMES))
        self.colour = nn.Linear(width, len(COLOUR_NAMES))
        self.background = nn.Linear(width, len(BACKGROUND_NAMES))
        self.embedding = nn.Linear(width, _EMBEDDING)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Map pixels (N, 3, 64, 64) in [-1, 1] to shape, colour, background logits and unit embeddings (N, 64)."""
        features = self.body(pixels)
        embedded = nn.functional.normalize(self.embedding(features), dim=-1)
        return self.shape(features), self.colour(features), self.background(features), embedded


def load_judge(weights: Path = WEIGHTS) -> Judge:
    """Return the judge with the weights that ship with the project."""
    judge = Judge()
    judge.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    return judge.eval().requires_grad_(False)


def as_pixels(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Return pictures as (N, 3, 64, 64) float32 in [-1, 1], resized where they have another size."""
    size = (SIZE_PX, SIZE_PX)
    fitted = [p.convert("RGB") if p.size == size else p.convert("RGB").resize(size) for p in pictures]
    array = np.stack([np.asarray(p) for p in fitted])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def classify(judge: Judge, pictures: Sequence[Image.Image]) -> list[Verdict]:
    """Return the judge's verdict on each picture."""
    shapes, colours, backgrounds, _ = judge(as_pixels(pictures))
    rows = torch.stack([part.argmax(-1) for part in (shapes, colours, backgrounds)], dim=1).tolist()
    return [Verdict(shape=SHAPE_NAMES[s], colour=COLOUR_NAMES[c], background=BACKGROUND_NAMES[b]) for s, c, b in rows]


def embed(judge: Judge, pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Return unit embeddings (N, 64): close for one toy in other places, far for other toys."""
    return cast("torch.Tensor", judge(as_pixels(pictures))[3])


def likeness(judge: Judge, pictures: Sequence[Image.Image], references: Sequence[Image.Image]) -> list[float]:
    """Return for each picture, in [-1, 1], how much it looks like the subject of the reference pictures."""
    centre = nn.functional.normalize(embed(judge, references).mean(0), dim=0)
    return cast("list[float]", (embed(judge, pictures) @ centre).tolist())
