from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sdtune.config.buckets import BucketOptions
from sdtune.config.data import DataOptions
from sdtune.data.buckets import contact_sheet
from sdtune.data.buckets.contact_sheet import CELL_PX, GAP_PX, LABEL_PX, choose_shown, draw_sheet
from sdtune.data.buckets.placing import place_images
from sdtune.data.buckets.report import report_buckets
from sdtune.data.index.building import build_index


@pytest.fixture
def report(tmp_path):
    def make(*sizes, **options):
        for number, size in enumerate(sizes):
            Image.new("RGB", size, "white").save(tmp_path / f"{number:03d}.png")
        chosen = DataOptions(path=tmp_path, captions="empty", resolution="64", **options)
        images = build_index(chosen).images
        return report_buckets(images, place_images(images, chosen), chosen)

    return make


def test_what_is_cut_away_is_dark_and_what_is_kept_is_not(report):
    sheet = draw_sheet(report((CELL_PX * 2, CELL_PX), buckets=BucketOptions(enabled=False)).images, "white")
    row = np.asarray(sheet)[GAP_PX + CELL_PX - CELL_PX // 4, GAP_PX : GAP_PX + CELL_PX, 0]
    quarter = CELL_PX // 4
    assert set(row[: quarter - 2]) == {63}
    assert set(row[quarter + 3 : -quarter - 3]) == {255}
    assert set(row[-quarter + 2 :]) == {63}


def test_eight_stand_in_a_row(report):
    sheet = draw_sheet(report(*[(64, 64)] * 9).images, "white")
    assert sheet.size == (8 * (CELL_PX + GAP_PX) + GAP_PX, 2 * (CELL_PX + LABEL_PX + GAP_PX) + GAP_PX)


def test_of_too_many_those_that_lose_most_are_drawn_of_each_bucket(report, monkeypatch):
    monkeypatch.setattr(contact_sheet, "MOST_IMAGES", 3)
    made = report((64, 64), (66, 64), (67, 64), (130, 64), (128, 64))
    names = [cost.record.name for cost in choose_shown(made.images)]
    worst = {max(group, key=lambda it: it.crop).record.name for group in _groups(made.images)}
    assert len(names) == 3
    assert worst <= set(names)


def _groups(costs):
    return [[it for it in costs if it.placement.bucket == bucket] for bucket in {it.placement.bucket for it in costs}]
