from __future__ import annotations

import zipfile

import pytest

from sdtune.errors import ModelError
from sdtune.models import vocabulary
from sdtune.models.tokenizer import clip_tokenizer, find_tokenizer

KNOWN = {
    "": [49406, 49407],
    "a photo of a cat": [49406, 320, 1125, 539, 320, 2368, 49407],
    "A  Photo\nof a CAT": [49406, 320, 1125, 539, 320, 2368, 49407],
}


def test_bytes_stand_in_clips_order():
    symbols = vocabulary.byte_symbols()
    assert len(set(symbols)) == 256
    assert (symbols[0], symbols[93], symbols[94]) == ("!", "~", "¡")


def test_tokens_are_numbered_as_clip_does():
    tokens = vocabulary.number_tokens([("a", "b"), ("ab", "c</w>")])
    assert (tokens["!"], tokens["!</w>"], tokens["ab"], tokens["abc</w>"]) == (0, 256, 512, 513)
    assert (tokens[vocabulary.START], tokens[vocabulary.END]) == (514, 515)


def test_another_vocabulary_is_not_kept(tmp_path, own_cache):
    wheel = tmp_path / "open_clip_torch-3.3.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"open_clip/{vocabulary.BPE_NAME}", b"something else")
    with pytest.raises(ModelError, match="its SHA-256 differs"):
        vocabulary.keep_from_wheel(wheel)
    assert not own_cache.exists()


@pytest.mark.parametrize("content", [b"", b"no zip"])
def test_what_is_no_wheel_is_told(tmp_path, content):
    (tmp_path / "x.whl").write_bytes(content)
    with pytest.raises(ModelError, match="not a wheel of open-clip-torch"):
        vocabulary.keep_from_wheel(tmp_path / "x.whl")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """CLIP's vocabulary, fetched through pip; its tests are skipped where no package index is reached."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("kept")))
        try:
            return vocabulary.download()
        except ModelError as error:
            pytest.skip(f"no package index: {error}")


@pytest.mark.slow
@pytest.mark.parametrize(("text", "ids"), KNOWN.items())
def test_clips_own_ids_come_out(published, text, ids):
    tokenizer = clip_tokenizer(published)
    assert tokenizer(text).input_ids == ids
    assert len(tokenizer) == 49408
    assert tokenizer.pad_token_id == 49407


@pytest.mark.slow
def test_a_kept_vocabulary_is_found_again(published, own_cache, tmp_path):
    kept = vocabulary.keep(published.read_bytes())
    assert kept.parent == own_cache / "tokenizers" / "clip"
    assert find_tokenizer(tmp_path / "m.safetensors") == kept
