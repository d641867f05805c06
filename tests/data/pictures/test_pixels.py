import numpy as np
import pytest
import torch
from PIL import Image

from sdtune.config.data import DataOptions
from sdtune.data.buckets.placing import place
from sdtune.data.index.building import build_index
from sdtune.data.pictures.images import decode
from sdtune.data.pictures.pixels import load_pixels
from sdtune.data.types import Size
from sdtune.errors import DataError
from sdtune.testing.images import draw_picture, write_images


def record_of(folder, size):
    write_images(folder, 1, sizes=[size])
    return build_index(DataOptions(path=folder)).images[0]


def as_bytes(pixels):
    return ((pixels + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()


def test_image_of_its_bucket_size_keeps_its_pixels(tmp_path):
    record = record_of(tmp_path, (64, 48))
    pixels = load_pixels(record, place(record.size, Size(64, 48)))
    assert pixels.dtype == torch.float32
    assert pixels.shape == (3, 48, 64)
    assert np.array_equal(as_bytes(pixels), decode(record.path))


def test_range_is_minus_one_to_one(tmp_path):
    pair = Image.new("RGB", (32, 32), "white")
    pair.paste("black", (0, 0, 16, 32))
    write_images(tmp_path, 1)
    pair.save(tmp_path / "00.png")
    record = build_index(DataOptions(path=tmp_path)).images[0]
    assert load_pixels(record, place(record.size, Size(32, 32))).unique().tolist() == [-1.0, 1.0]


def test_flip_mirrors_left_to_right(tmp_path):
    record = record_of(tmp_path, (100, 70))
    placement = place(record.size, Size(64, 48))
    straight, flipped = load_pixels(record, placement), load_pixels(record, placement, flipped=True)
    assert torch.equal(flipped, straight.flip(2))
    assert not torch.equal(flipped, straight)


def test_halving_takes_the_mean_of_four_pixels(tmp_path):
    record = record_of(tmp_path, (64, 48))
    small = as_bytes(load_pixels(record, place(record.size, Size(32, 24)))).astype(float)
    means = decode(record.path).astype(float).reshape(24, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - means).max() <= 1  # Pillow rounds once for each direction


def test_enlarging_follows_lanczos(tmp_path):
    record = record_of(tmp_path, (32, 24))
    large = as_bytes(load_pixels(record, place(record.size, Size(64, 48))))
    with Image.open(record.path) as image:
        assert np.array_equal(large, np.asarray(image.resize((64, 48), Image.Resampling.LANCZOS)))


def test_crop_takes_the_middle(tmp_path):
    record = record_of(tmp_path, (64, 32))
    cropped = as_bytes(load_pixels(record, place(record.size, Size(32, 32))))
    assert np.array_equal(cropped, decode(record.path)[:, 16:48])


def test_changed_file_is_an_error_that_names_it(tmp_path):
    record = record_of(tmp_path, (32, 32))
    draw_picture((32, 32), seed=5).save(record.path)
    with pytest.raises(DataError, match=r"00.png changed since"):
        load_pixels(record, place(record.size, Size(32, 32)))


def test_deleted_file_is_an_error_that_names_it(tmp_path):
    record = record_of(tmp_path, (32, 32))
    record.path.unlink()
    with pytest.raises(DataError, match=r"no file .*00.png"):
        load_pixels(record, place(record.size, Size(32, 32)))
