from sdtune.data.pictures.images import probe
from sdtune.testing.images import draw_picture, write_images


def test_pictures_differ_by_seed_only():
    assert draw_picture(seed=1).tobytes() == draw_picture(seed=1).tobytes()
    assert draw_picture(seed=1).tobytes() != draw_picture(seed=2).tobytes()


def test_folder_has_pictures_and_captions(tmp_path):
    paths = write_images(tmp_path / "new", 3, sizes=[(20, 30), (40, 50)], caption="thing {index}")
    assert [probe(path) for path in paths] == [(20, 30), (40, 50), (20, 30)]
    assert [path.with_suffix(".txt").read_text() for path in paths] == ["thing 0", "thing 1", "thing 2"]
