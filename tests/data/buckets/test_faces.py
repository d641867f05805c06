from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
from PIL import Image

from sdtune.config.buckets import BucketOptions
from sdtune.config.cache import CacheOptions
from sdtune.config.data import DataOptions
from sdtune.data.buckets.faces import Face, FaceFinder, face_in_name, faces_of_rows
from sdtune.data.buckets.placing import place_images
from sdtune.data.index.building import build_index
from sdtune.data.types import Size
from sdtune.errors import DataError, PlatformError


def test_a_name_tells_the_middle_and_the_size_of_a_face():
    face = face_in_name("girl_100_50_40_20", Size(200, 100))
    assert face == Face(left=0.4, top=0.4, right=0.6, bottom=0.6)


@pytest.mark.parametrize("stem", ["girl", "girl_100_50_40", "girl_300_50_40_20", "girl_100_50_0_20", "20240131_1_2_a"])
def test_other_names_tell_none(stem):
    assert face_in_name(stem, Size(200, 100)) is None


def test_rows_of_the_detector_are_boxes_in_px():
    row = np.array([10, 20, 30, 40, *range(10), 0.9], dtype=np.float32)
    assert faces_of_rows([row], (100, 200)) == (Face(left=0.1, top=0.1, right=0.4, bottom=0.3),)


def test_a_missing_model_file_is_named(tmp_path):
    pytest.importorskip("cv2")
    with pytest.raises(DataError, match=r"no file .*face\.onnx"):
        FaceFinder(tmp_path / "face.onnx")


def test_a_file_that_is_no_network_is_named(tmp_path):
    pytest.importorskip("cv2")
    (tmp_path / "face.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="is not a network that OpenCV reads"):
        FaceFinder(tmp_path / "face.onnx")


def test_without_opencv_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(PlatformError, match=r"pip install 'sdtune\[faces\]'"):
        FaceFinder(tmp_path / "face.onnx")


# A network with the inputs and outputs of YuNet, to which whatever is red is a face; its ONNX file is written by hand.
STRIDES, OUTPUTS = (8, 16, 32), {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}


def varint(number):
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def fields(number, values):
    return b"".join(field(number, value) for value in values)


def tensor(name, shape, values):
    kind, code = (1, "f") if isinstance(values[0], float) else (7, "q")
    data = struct.pack(f"<{len(values)}{code}", *values)
    return fields(1, shape) + field(2, kind) + field(8, name) + field(9, data)


def node(operator, inputs, output, **attributes):
    given = [field(1, name) + fields(8, values) + field(20, 7) for name, values in attributes.items()]
    return fields(1, inputs) + field(2, output) + field(3, output) + field(4, operator) + fields(5, given)


def described(name, *shape):
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, fields(1, [field(1, side) for side in shape]))))


def output_nodes(kind, stride):
    name = f"{kind}_{stride}"
    yield node("Conv", [f"pool_{stride}", f"{kind}_weight", f"{kind}_bias"], f"{name}_conv", kernel_shape=[1, 1])
    yield node("Sigmoid" if OUTPUTS[kind] == 1 else "Identity", [f"{name}_conv"], f"{name}_act")
    yield node("Transpose", [f"{name}_act"], f"{name}_last", perm=[0, 2, 3, 1])
    yield node("Reshape", [f"{name}_last", f"{kind}_shape"], name)


def network():
    nodes, tensors, outputs = [], [], []
    for kind, count in OUTPUTS.items():
        weights, bias = ([-0.5, -0.5, 1.0], [-60.0]) if count == 1 else ([0.0] * 3 * count, [0.0] * count)
        tensors.append(tensor(f"{kind}_weight", [count, 3, 1, 1], weights))
        tensors += [tensor(f"{kind}_bias", [count], bias), tensor(f"{kind}_shape", [3], [1, -1, count])]
        outputs += [described(f"{kind}_{stride}", 1, (640 // stride) ** 2, count) for stride in STRIDES]
    for stride in STRIDES:
        window = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        nodes.append(node("AveragePool", ["input"], f"pool_{stride}", **window))
        nodes += [it for kind in OUTPUTS for it in output_nodes(kind, stride)]
    graph = fields(1, nodes) + field(2, "faces") + fields(5, tensors) + field(11, described("input", 1, 3, 640, 640))
    return field(1, 8) + field(7, graph + fields(12, outputs)) + field(8, field(1, "") + field(2, 11))


@pytest.fixture
def finder(tmp_path):
    pytest.importorskip("cv2")
    (tmp_path / "red.onnx").write_bytes(network())
    return FaceFinder(tmp_path / "red.onnx")


@pytest.mark.parametrize("scale", [1, 4])
def test_faces_are_found_where_the_network_sees_them(finder, scale):
    picture = np.full((160 * scale, 512 * scale, 3), 128, dtype=np.uint8)
    picture[32 * scale : 64 * scale, 400 * scale : 432 * scale] = (255, 0, 0)
    found = finder.find(picture)
    assert all(face.right > 400 / 512 - 0.1 and face.left < 432 / 512 + 0.1 for face in found)
    assert min(face.left for face in found) == pytest.approx(400 / 512, abs=0.08)
    assert found


def test_a_picture_without_faces_has_none(finder):
    assert finder.find(np.full((50, 77, 3), 200, dtype=np.uint8)) == ()


def test_a_crop_follows_the_face_that_the_network_sees(tmp_path, finder, caplog):
    picture = np.full((160, 512, 3), 128, dtype=np.uint8)
    picture[40:90, 380:430] = (255, 0, 0)
    (tmp_path / "images").mkdir()
    Image.fromarray(picture).save(tmp_path / "images" / "a.png")
    cache, buckets = CacheOptions(dir=tmp_path / "cache"), BucketOptions(enabled=False)
    where = {"path": tmp_path / "images", "captions": "empty", "resolution": "64", "buckets": buckets, "cache": cache}
    chosen = DataOptions(crop="face", face_model=tmp_path / "red.onnx", **where)
    (placement,) = place_images(build_index(chosen).images, chosen)
    assert placement.left == pytest.approx(405 / 512 * placement.resized.width - 32, abs=8)
    assert caplog.messages == []
