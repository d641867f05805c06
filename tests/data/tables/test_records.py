import random
from pathlib import Path

import numpy as np
import pytest

from sdtune.data.tables.records import ImageTable, PlacementTable
from sdtune.data.types import ImageRecord, MaskFile, Placement, Size, Subset


def subset(name, **kwargs):
    return Subset(name=name, path=Path(name), repeats=1.5, class_text="", weight=1.0, caption_source="txt", **kwargs)


SUBSETS = [subset("10_dog"), subset("cat", is_regularization=True)]


def records(count, seed=0):
    draws = random.Random(seed)
    return [
        ImageRecord(
            path=draws.choice(SUBSETS).path / f"{number}.png",
            name=f"name/{number}",
            size=Size(draws.randint(16, 4096), draws.randint(16, 4096)),
            digest=draws.choice([draws.randbytes(16).hex(), ""]),
            caption=draws.choice(["", "a dog", f"犬 {number}", "a\nb"]),
            subset=draws.choice(SUBSETS),
            mask=draws.choice([None, MaskFile(path=Path(f"masks/{number}.png"), digest=draws.randbytes(16).hex())]),
        )
        for number in range(count)
    ]


def placements(count, seed=0):
    draws = random.Random(seed)
    sizes = [Size(512, 512), Size(384, 640)]
    return [
        Placement(
            bucket=draws.choice(sizes), resized=Size(draws.randint(600, 900), 640), left=draws.randint(0, 99), top=0
        )
        for _ in range(count)
    ]


TABLES = pytest.mark.parametrize(("kind", "make"), [(ImageTable, records), (PlacementTable, placements)])


@TABLES
@pytest.mark.parametrize("count", [0, 1, 50, 5000])
def test_a_table_reads_as_the_list_of_its_records(kind, make, count):
    rows = make(count)
    table = kind.of(iter(rows))
    assert table == rows
    assert tuple(rows) == table
    assert [table[number] for number in range(len(table))] == rows


@TABLES
def test_a_table_is_parted_and_joined_as_lists_are(kind, make):
    rows, others = make(30), make(20, seed=1)
    table = kind.of(rows)
    assert table[3:9] == rows[3:9]
    assert kind.join([table[3:9], kind.of(others), table]) == rows[3:9] + others + rows
    assert table.select([5, 2, 5]) == [rows[5], rows[2], rows[5]]
    assert table.select(np.arange(30) % 2 == 1) == rows[1::2]
    assert table.select([]) == []


@TABLES
def test_a_table_of_a_table_is_itself(kind, make):
    table = kind.of(make(3))
    assert kind.of(table) is table


def test_columns_are_the_fields_of_the_records():
    rows = records(40)
    table = ImageTable.of(rows)
    assert table.paths == [row.path for row in rows]
    assert table.names == [row.name for row in rows]
    assert table.captions == [row.caption for row in rows]
    assert table.digests == [row.digest for row in rows]
    assert table.subsets == [row.subset for row in rows]
    assert table.sizes.tolist() == [list(row.size) for row in rows]
    assert table.is_regularization.tolist() == [row.subset.is_regularization for row in rows]
    assert table.masks == [row.mask for row in rows]
    assert table.masks.is_any()
    assert not table.select([row.mask is None for row in rows]).masks.is_any()


def test_columns_of_placements_are_their_fields():
    rows = placements(40)
    table = PlacementTable.of(rows)
    assert table.buckets == [row.bucket for row in rows]
    assert table.resized.tolist() == [list(row.resized) for row in rows]


def test_captions_are_changed_and_nothing_else():
    rows = records(10)
    changed = ImageTable.of(rows).map_captions(str.upper)
    assert changed.captions == [row.caption.upper() for row in rows]
    assert changed.map_captions(lambda text: "") == ImageTable.of(rows).map_captions(lambda text: "")


def test_columns_that_do_not_fit_are_refused():
    table = PlacementTable.of(placements(3))
    with pytest.raises(ValueError, match="one length"):
        table.replace({"top": table.column("top")[:2]})
    with pytest.raises(ValueError, match="bucket"):
        PlacementTable({"top": table.column("top")})
