from __future__ import annotations

from pathlib import Path

import pytest

from sdtune.config.buckets import BucketOptions
from sdtune.config.data import DataOptions
from sdtune.data.buckets.placing import place_images
from sdtune.data.buckets.report import KINDS, bucket_notes, report_buckets
from sdtune.data.buckets.report_table import to_document, to_lines
from sdtune.data.types import ImageRecord, Size, Subset

STARVING, LOW_AREA, ENLARGED, HEAVY_CROP = KINDS


def report(*sizes, batch_size=2, repeats=1.0, own_batch=None, **options):
    chosen = DataOptions(resolution="512", **options)
    own = Subset(
        name="a",
        path=Path("a"),
        repeats=repeats,
        class_text="",
        weight=1,
        caption_source="txt",
        options=chosen,
        batch_size=own_batch,
    )
    images = [
        ImageRecord(path=Path(f"{n}.png"), name=f"a/{n}.png", size=Size(*size), digest="", caption="", subset=own)
        for n, size in enumerate(sizes)
    ]
    return report_buckets(images, place_images(images, chosen), chosen, batch_size=batch_size)


def test_scale_crop_and_lost_pixels_of_an_image():
    (cost,) = report((1024, 2048), buckets=BucketOptions(enabled=False)).images
    assert (cost.scale, cost.crop, cost.lost_px, cost.area) == (0.5, 0.5, 1024 * 1024, 1)
    assert cost.defects == (HEAVY_CROP,)


@pytest.mark.parametrize(
    ("size", "defects"),
    [
        ((512, 512), ()),
        ((350, 350), ()),
        ((340, 340), (ENLARGED,)),
        ((2048, 1536), ()),
        ((2048, 256), (HEAVY_CROP,)),
    ],
)
def test_flaws_of_an_image(size, defects):
    assert set(report(size).images[0].defects) == set(defects)


def test_a_bucket_of_few_pixels_is_told():
    made = report((4000, 1000), buckets=BucketOptions(max_px=640))
    assert made.images[0].defects == (LOW_AREA, HEAVY_CROP)
    assert "1 image in buckets below 80% of the area that is meant, least 62%: a/0.png in 640x256" in bucket_notes(made)


def test_low_area_is_measured_against_the_target():
    options = BucketOptions(rule="ratios", num_bucket=1, target_area=256 * 256)
    assert report((600, 600), buckets=options).images[0].defects == ()


def test_a_bucket_with_fewer_visits_than_a_batch_starves():
    made = report((512, 512), (512, 512), (900, 500), batch_size=2)
    assert [(it.size, it.visits, it.batches, it.is_starving) for it in made.buckets] == [
        ((512, 512), 2, 1, False),
        ((640, 384), 1, 1, True),
    ]
    assert bucket_notes(made) == ["1 bucket with fewer visits an epoch than a batch holds: 640x384 (1 of 2)"]


def test_repeats_count_as_visits_also_fractions():
    (bucket,) = report(*[(512, 512)] * 3, repeats=2.5, batch_size=4).buckets
    assert (bucket.images, bucket.visits, bucket.batches) == (3, 8, 2)


def test_a_folders_own_batch_size_counts():
    (bucket,) = report(*[(512, 512)] * 3, own_batch=8, batch_size=1).buckets
    assert bucket.is_starving


def test_one_line_for_each_kind_of_flaw_names_the_worst():
    made = report((100, 100), (200, 200), (512, 512), batch_size=1)
    assert bucket_notes(made) == ["2 images enlarged more than 1.5 times, most 5.1 times: a/0.png"]


def test_findings_name_what_is_wrong_where_and_what_to_do():
    found = report((100, 100), (512, 512), (900, 500), (2000, 256)).findings()
    assert [(finding.kind, finding.place) for finding in found] == [
        (STARVING, "2.png"),
        (STARVING, "3.png"),
        (ENLARGED, "0.png"),
        (HEAVY_CROP, "3.png"),
    ]
    assert found[2].message == "100x100 is enlarged 5.1 times to bucket 512x512"
    assert all(finding.remedy for finding in found)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        (BucketOptions(max_px=640), "data.buckets.max_px"),
        (BucketOptions(no_upscale=True), "use larger images"),
        (BucketOptions(rule="fixed", sizes=("256",)), "data.buckets.sizes"),
    ],
)
def test_the_remedy_for_few_pixels_is_that_of_the_rule(options, remedy):
    (low,) = [
        finding for finding in report((400, 100), batch_size=1, buckets=options).findings() if finding.kind is LOW_AREA
    ]
    assert remedy in low.remedy


def test_the_table_shows_buckets_then_images_in_their_order():
    lines = list(to_lines(report((900, 500), (512, 512), batch_size=1)))
    assert lines[0].startswith("2 images at 512 in 2 buckets, batches of 1, crop center: ")
    assert [line.split()[0] for line in lines[2:] if line] == [
        "bucket",
        "512x512",
        "640x384",
        "image",
        *"a/1.png a/0.png".split(),
    ]


def test_the_document_has_all_numbers():
    document = to_document(report((1024, 2048), buckets=BucketOptions(enabled=False)))
    assert document["images"] == [
        {
            "name": "a/0.png",
            "size": [1024, 2048],
            "bucket": [512, 512],
            "resized": [512, 1024],
            "left": 0,
            "top": 256,
            "crop_kind": "center",
            "scale": 0.5,
            "crop": 0.5,
            "lost_px": 1048576,
            "area": 1.0,
            "defects": [HEAVY_CROP.name],
        }
    ]
    assert document["buckets"][0]["is_starving"]
    assert document["crop"] == 0.5
