from pathlib import Path

import pytest

from sdtune.data.types import ImageRecord, Placement, Size, Subset


def _images(name, buckets, *, repeats=1.0, batch_size=None, pairs=None):
    subset = Subset(
        name=name,
        path=Path(name),
        repeats=float(repeats),
        class_text="",
        weight=1.0,
        caption_source="txt",
        batch_size=batch_size,
        is_regularization=pairs is not None,
        pairs_with=tuple(pairs or ()),
    )
    for number, bucket in enumerate(buckets):
        size = Size(*bucket)
        record = ImageRecord(
            path=Path(name),
            name=f"{name}/{number}.png",
            size=size,
            digest="",
            caption=f"{name} {number}",
            subset=subset,
        )
        yield record, Placement(bucket=size, resized=size, left=0, top=0)


@pytest.fixture(scope="session")
def data_set():
    """Describe images that are nowhere: folders of (name, buckets, options), `pairs` make it regularization."""

    def make(*folders):
        pairs = [pair for name, buckets, options in folders for pair in _images(name, buckets, **options)]
        return [record for record, _ in pairs], [placement for _, placement in pairs]

    return make
