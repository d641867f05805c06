"""The shipped judge knows fresh drawings and tells the demonstration's subject from other toys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sdtune.demo.judge import WEIGHTS, Judge, classify, embed, likeness, load_judge
from sdtune.demo.scenes import draw_same_toy, draw_scene, sample_scene, subject_images

_FRESH = 4711  # a seed no training stage uses


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


def test_the_judge_is_small() -> None:
    assert WEIGHTS.stat().st_size < 500_000


def test_the_judge_knows_fresh_drawings(judge: Judge) -> None:
    scenes = [sample_scene(_FRESH, index, "all") for index in range(300)]
    verdicts = classify(judge, [draw_scene(scene) for scene in scenes])
    pairs = list(zip(scenes, verdicts, strict=True))
    assert np.mean([s.shape == v.shape for s, v in pairs]) >= 0.97
    assert np.mean([s.colour == v.colour for s, v in pairs]) >= 0.97


def test_a_larger_picture_is_judged_like_its_small_copy(judge: Judge) -> None:
    small = draw_scene(sample_scene(_FRESH, 0, "all"))
    assert classify(judge, [small.resize((128, 128), Image.Resampling.NEAREST)]) == classify(judge, [small])


def test_embeddings_have_length_one(judge: Judge) -> None:
    lengths = embed(judge, [picture for picture, _ in subject_images(3)]).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones(3))


def test_the_subject_is_told_from_other_toys(judge: Judge) -> None:
    subject = [picture for picture, _ in subject_images(8)]
    others = [draw_same_toy(10_000_000 + key, 0) for key in range(40)]
    same = likeness(judge, subject[5:], subject[:5])
    different = likeness(judge, others, subject[:5])
    assert min(same) > np.quantile(different, 0.95)
