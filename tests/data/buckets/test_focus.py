from __future__ import annotations

import pytest

from sdtune.config.cache import CacheOptions
from sdtune.config.data import DataOptions
from sdtune.data.buckets import focus
from sdtune.data.buckets.faces import Face
from sdtune.data.buckets.focus import PARTS, find_focuses, focus_on_faces
from sdtune.data.index.building import build_index
from sdtune.testing.images import write_images


@pytest.fixture
def options(tmp_path):
    write_images(tmp_path / "images", 3, sizes=[(120, 60)])
    return DataOptions(path=tmp_path / "images", crop="focal", cache=CacheOptions(dir=tmp_path / "cache"))


def lists(found):
    return [[it.across.tolist(), it.down.tolist(), it.is_face] for it in found]


def count_decoded(monkeypatch):
    decoded = []
    real = focus.decode
    monkeypatch.setattr(focus, "decode", lambda path, color: decoded.append(path.name) or real(path, color))
    return decoded


def test_the_second_look_decodes_nothing_and_sees_the_same(options, monkeypatch):
    images = build_index(options).images
    first = find_focuses(images, options)
    decoded = count_decoded(monkeypatch)
    assert lists(find_focuses(images, options)) == lists(first)
    assert decoded == []


def test_an_edited_image_is_looked_at_again_and_no_other(options, monkeypatch):
    find_focuses(build_index(options).images, options)
    write_images(options.path / "x", 1, sizes=[(90, 60)])
    (options.path / "x" / "00.png").replace(options.path / "01.png")
    decoded = count_decoded(monkeypatch)
    find_focuses(build_index(options).images, options)
    assert decoded == ["01.png"]


def test_damaged_lines_are_looked_at_again(options, tmp_path, monkeypatch):
    images = build_index(options).images
    first = find_focuses(images, options)
    file = tmp_path / "cache" / focus.FILE_NAME
    one, two, three = file.read_text().splitlines(keepends=True)
    file.write_text(one + two[:-40] + "\n" + three[:30])
    decoded = count_decoded(monkeypatch)
    assert lists(find_focuses(images, options)) == lists(first)
    assert len(decoded) == 2


def test_any_number_of_workers_sees_the_same(options, tmp_path):
    images = build_index(options).images
    several = find_focuses(images, options)
    alone = options.model_copy(update={"workers": 0, "cache": CacheOptions(dir=tmp_path / "other")})
    assert lists(find_focuses(images, alone)) == lists(several)


def test_a_cache_that_cannot_be_written_is_done_without(options, tmp_path):
    (tmp_path / "file").write_text("")
    blocked = options.model_copy(update={"cache": CacheOptions(dir=tmp_path / "file")})
    assert None not in find_focuses(build_index(options).images, blocked)


def test_an_image_that_cannot_be_read_is_left_to_others(options):
    images = build_index(options).images
    images[1].path.write_bytes(b"no image")
    assert [found is None for found in find_focuses(images, options)] == [False, True, False]


def test_faces_weigh_what_they_cover():
    found = focus_on_faces([Face(left=0.25, top=-0.1, right=0.5, bottom=0.25)])
    assert found.across.tolist() == [0] * 16 + [255] * 16 + [0] * 32
    assert found.down.tolist() == [255] * 16 + [0] * 48
    assert len(found.across) == PARTS
