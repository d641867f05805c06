"""A report on buckets as text, or as plain values for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdtune.data.buckets.report import bucket_notes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sdtune.data.buckets.report import BucketCost, BucketReport, ImageCost

_GAP = "  "


def to_lines(report: BucketReport) -> Iterator[str]:
    """Give the lines of a table of buckets, a table of images in the order of their buckets, and notes."""
    yield _headline(report)
    yield ""
    yield from _table(("bucket", "images", "visits", "batches"), [_bucket_row(bucket) for bucket in report.buckets])
    yield ""
    costs = sorted(report.images, key=lambda cost: cost.placement.bucket)  # stable: then as in the data set
    yield from _table(("image", "size", "bucket", "scale", "crop", "pixels lost"), [_image_row(cost) for cost in costs])
    if notes := bucket_notes(report):
        yield ""
        yield from (f"note: {note}" for note in notes)


def to_document(report: BucketReport) -> dict[str, Any]:
    """Give the report as plain values."""
    return {
        "crop": round(report.crop, 6),
        "buckets": [_bucket_values(bucket) for bucket in report.buckets],
        "images": [_image_values(cost) for cost in report.images],
        "notes": bucket_notes(report),
    }


def _bucket_values(bucket: BucketCost) -> dict[str, Any]:
    return {
        "size": list(bucket.size),
        "images": bucket.images,
        "visits": bucket.visits,
        "batch_size": bucket.batch_size,
        "batches": bucket.batches,
        "is_starving": bucket.is_starving,
    }


def _image_values(cost: ImageCost) -> dict[str, Any]:
    placement = cost.placement
    return {
        "name": cost.record.name,
        "size": list(cost.record.size),
        "bucket": list(placement.bucket),
        "resized": list(placement.resized),
        "left": placement.left,
        "top": placement.top,
        "crop_kind": cost.options.crop,
        "scale": round(cost.scale, 6),
        "crop": round(cost.crop, 6),
        "lost_px": cost.lost_px,
        "area": round(cost.area, 6),
        "defects": [kind.name for kind in cost.defects],
    }


def _headline(report: BucketReport) -> str:
    resolutions = _once(str(cost.options.resolution) for cost in report.images)
    batches = _once(str(bucket.batch_size) for bucket in report.buckets)
    crops = _once(cost.options.crop for cost in report.images)
    count = len({bucket.size for bucket in report.buckets})
    return (
        f"{len(report.images)} images at {resolutions} in {count} bucket{'s' * (count != 1)}, "
        f"batches of {batches}, crop {crops}: {report.crop:.1%} of the pixels is cut away"
    )


def _once(words: Iterator[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _bucket_row(bucket: BucketCost) -> tuple[str, ...]:
    starving = "starving" if bucket.is_starving else ""
    return f"{bucket.size}", f"{bucket.images}", f"{bucket.visits}", f"{bucket.batches}", starving


def _image_row(cost: ImageCost) -> tuple[str, ...]:
    return (
        cost.record.name,
        f"{cost.record.size}",
        f"{cost.placement.bucket}",
        f"{cost.scale:.2f}",
        f"{cost.crop:.1%}",
        f"{cost.lost_px:,}",
        ", ".join(kind.name for kind in cost.defects),
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Set out rows of as many cells as the head has and one more, which is a remark."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [(*head, ""), *rows]:
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row[:-1], widths, strict=True))
        )
        yield _GAP.join([first, *others, row[-1]]).rstrip()
