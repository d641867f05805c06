from __future__ import annotations

import hashlib

import pytest

from sdtune.models import vocabulary
from sdtune.models.tokenizer import open_tokenizer, tokenizer_files

# as OpenAI's own tokenizer gives them, between start and end
KNOWN = {
    "": [],
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "A  Photo\nof a CAT": [320, 1125, 539, 320, 2368],
    "(masterpiece:1.2), best quality, ultra-detailed, 8k": [
        263, 12066, 281, 272, 269, 273, 2361, 949, 3027, 267, 8118, 268, 12609, 267, 279, 330,
    ],
    "12345 3d 2021": [272, 273, 274, 275, 276, 274, 323, 273, 271, 273, 272],
    "it's we'll they've I'd can't you're I'm": [
        585, 568, 649, 1342, 889, 1200, 328, 1896, 753, 713, 592, 982, 328, 880,
    ],
    "a_b-c.d/e\\f": [320, 318, 321, 268, 322, 269, 323, 270, 324, 315, 325],
    "zwx dog": [89, 3561, 1929],
    "antidisestablishmentarianism": [3120, 4262, 7726, 12658, 1585, 44351],
    "émile's café naïve façade": [3459, 6243, 568, 15304, 1097, 35689, 563, 778, 10067, 1928],
    "e\N{COMBINING ACUTE ACCENT} decomposed": [4166, 561, 19916],
    "ÄÖÜ Straße": [10896, 7255, 47177, 1894, 127, 253, 324],
    "一只猫坐在桌子上": [
        19759, 222, 34517, 103, 163, 234, 104, 161, 251, 238, 37746, 101, 162, 94, 234, 35751, 238, 19759, 488,
    ],
    "日本語 한국어": [39121, 44353, 34002, 508, 15197, 250, 31871, 255, 31625, 368],
    "русский العربية": [16370, 39729, 23669, 23669, 27152, 29503, 373, 12973, 18843, 10948, 16378, 12046, 20915],
    "🐱🔥 cat emoji": [35710, 3016, 2368, 16327],
}  # fmt: skip


@pytest.fixture(scope="module")
def clip():
    return open_tokenizer(None, vocabulary.SIZE)


def test_the_vocabulary_is_the_one_that_openai_published():
    digest = hashlib.sha256(vocabulary.PUBLISHED.read_bytes()).hexdigest()
    assert digest == "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"


def test_its_licence_lies_beside_it():
    assert "Copyright (c) 2021 OpenAI" in vocabulary.PUBLISHED.with_name("LICENSE").read_text(encoding="utf-8")


def test_bytes_stand_in_clips_order():
    symbols = vocabulary.byte_symbols()
    assert len(set(symbols)) == 256
    assert (symbols[0], symbols[93], symbols[94]) == ("!", "~", "¡")


def test_tokens_are_numbered_as_clip_does():
    tokens = vocabulary.number_tokens([("a", "b"), ("ab", "c</w>")])
    assert (tokens["!"], tokens["!</w>"], tokens["ab"], tokens["abc</w>"]) == (0, 256, 512, 513)
    assert (tokens[vocabulary.START], tokens[vocabulary.END]) == (514, 515)


def test_every_token_has_a_number_of_its_own(clip):
    assert sorted(clip.get_vocab().values()) == list(range(49408))


@pytest.mark.parametrize(("text", "ids"), KNOWN.items())
def test_clips_own_ids_come_out(clip, text, ids):
    assert clip(text).input_ids == [49406, *ids, 49407]


def test_captions_are_filled_up_with_the_end_mark_to_77(clip):
    assert clip("a cat", padding="max_length").input_ids == [49406, 320, 2368, *[49407] * 74]


def test_a_folder_written_of_it_is_the_same_tokenizer(clip, tmp_path):
    files = tokenizer_files(None)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert open_tokenizer(tmp_path, vocabulary.SIZE)(list(KNOWN)).input_ids == clip(list(KNOWN)).input_ids
    assert tokenizer_files(tmp_path) == files
