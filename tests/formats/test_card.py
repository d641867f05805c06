import base64
import json
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdtune.errors import ModelError
from sdtune.formats.card import CHUNK, encode_card, read_card
from sdtune.formats.embedding import webui_embedding
from sdtune.testing.images import draw_picture


def as_json(embedding):
    return json.dumps(webui_embedding(embedding), default=lambda tensor: {"TORCHTENSOR": tensor.tolist()}).encode()


def hide_in_pixels(picture, data):
    """Put data at both sides of a picture, by the rules of webui's image_embedding.py."""
    packed = np.frombuffer(zlib.compress(data, 9), np.uint8)
    row = picture.height * 3
    halves = [np.resize(half, -(-len(half) // row) * row) for half in (packed & 15, packed >> 4)]
    state, stream = 0, []
    for _ in range(len(halves[0])):
        state = (1664525 * state + 1013904223) & 0xFFFFFFFF
        stream.append((state % 255) & 15)
    blocks = [(half ^ np.array(stream, np.uint8) | 0x50).reshape(picture.height, -1, 3) for half in halves]
    gap = np.zeros((picture.height, 1, 3), np.uint8)
    # a picture may have dark columns too, but then with something in their low bits
    return Image.fromarray(np.concatenate([blocks[0], gap, np.asarray(picture) | 1, gap, blocks[1]], axis=1))


def test_a_card_gives_back_its_embedding(tmp_path, embedding, same):
    (tmp_path / "other.png").write_bytes(encode_card(embedding))
    found = read_card(tmp_path / "other.png")
    assert same(found, embedding)
    assert (found.name, found.step, found.base_name) == ("newt", 12, "tiny")


def test_a_card_for_two_text_encoders_gives_back_both(tmp_path, wide_embedding, same):
    (tmp_path / "newt.png").write_bytes(encode_card(wide_embedding))
    assert same(read_card(tmp_path / "newt.png"), wide_embedding)


def test_the_text_chunk_is_base64_of_json(tmp_path, embedding):
    with Image.open(BytesIO(encode_card(embedding))) as card:
        found = json.loads(base64.b64decode(card.info[CHUNK]))
    assert found["string_to_param"]["*"] == {"TORCHTENSOR": embedding.vectors["clip_l"].tolist()}
    assert found["step"] == 12


def test_the_card_shows_the_picture_enlarged_and_a_strip_below(embedding):
    picture = draw_picture((64, 64))
    with Image.open(BytesIO(encode_card(embedding, picture))) as card:
        assert card.size == (512, 576)
        shown = card.crop((0, 0, 512, 512)).resize((64, 64), Image.Resampling.NEAREST)
        assert shown.tobytes() == picture.tobytes()
        assert len(card.crop((0, 512, 512, 576)).getcolors()) > 1


def test_the_same_embedding_gives_the_same_bytes(embedding):
    assert encode_card(embedding) == encode_card(embedding)


def test_the_pixels_are_read_where_the_text_chunk_is_gone(tmp_path, embedding, same):
    hidden = hide_in_pixels(draw_picture((96, 80)), as_json(embedding))
    framed = Image.new("RGB", (hidden.width + 10, hidden.height + 6))
    framed.paste(hidden, (4, 2))
    framed.save(tmp_path / "newt.png")
    assert same(read_card(tmp_path / "newt.png"), embedding)


def with_chunk(text):
    chunk = PngInfo()
    chunk.add_text(CHUNK, text)
    return chunk


@pytest.mark.parametrize(
    ("picture", "chunk"),
    [
        (draw_picture(), None),
        (Image.new("RGB", (8, 8)), None),
        (draw_picture(), with_chunk("not base64!")),
        (draw_picture(), with_chunk(base64.b64encode(b"not json").decode())),
        (draw_picture(), with_chunk(base64.b64encode(b"[1]").decode())),
        (draw_picture(), with_chunk(base64.b64encode(b'{"a": {"TORCHTENSOR": "x"}}').decode())),
    ],
    ids=["plain", "black", "no base64", "no json", "a list", "no tensor"],
)
def test_a_picture_without_an_embedding_is_refused(tmp_path, picture, chunk):
    picture.save(tmp_path / "a.png", pnginfo=chunk)
    with pytest.raises(ModelError, match=r"a\.png"):
        read_card(tmp_path / "a.png")


def test_a_file_that_is_no_picture_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"text")
    with pytest.raises(ModelError, match="cannot read an embedding"):
        read_card(tmp_path / "a.png")
