import pytest
import torch

from sdtune.errors import ModelError
from sdtune.formats.embedding import embedding_tensors, from_content, webui_checksum, webui_embedding


def read(content):
    return from_content(content, name="newt", where="newt.pt")


def test_webuis_dictionary_has_its_fields(embedding):
    content = webui_embedding(embedding)
    tensor = content.pop("string_to_param")["*"]
    assert content == {
        "string_to_token": {"*": 265},
        "name": "newt",
        "step": 12,
        "sd_checkpoint": "0123456789",
        "sd_checkpoint_name": "tiny",
    }
    assert torch.equal(tensor, embedding.vectors["clip_l"])
    assert type(tensor) is torch.Tensor


def test_webuis_dictionary_is_read_whole(embedding, same):
    found = read(webui_embedding(embedding))
    assert same(found, embedding)
    facts = (found.name, found.step, found.base_hash, found.base_name, found.count)
    assert facts == ("newt", 12, "0123456789", "tiny", 3)


def test_tensors_alone_are_read(embedding, wide_embedding, same):
    assert embedding_tensors(embedding).keys() == {"emb_params"}
    assert same(read(embedding_tensors(embedding)), embedding)
    assert same(read(embedding_tensors(wide_embedding)), wide_embedding)


@pytest.mark.parametrize("shape", [(64,), (2, 64)])
def test_a_diffusers_concept_is_read(shape):
    tensor = torch.randn(shape)
    found = read({"<newt>": tensor})
    assert torch.equal(found.vectors["clip_l"], tensor.reshape(-1, 64))
    assert found.step is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "a list, no embedding"),
        ({}, "0 tensors"),
        ({"a": torch.ones(1, 2), "b": torch.ones(1, 2)}, "2 tensors"),
        ({"string_to_param": 1}, "string_to_param is a int"),
        ({"a": torch.ones(1, 2, 3)}, r"\(1, 2, 3\)"),
        ({"a": torch.ones(0, 2)}, r"\(0, 2\)"),
        ({"a": torch.full((1, 2), torch.nan)}, "finite"),
        ({"clip_l": torch.ones(1, 2), "clip_g": torch.ones(2, 3)}, "different numbers of vectors"),
    ],
)
def test_what_is_no_embedding_is_refused(content, message):
    with pytest.raises(ModelError, match=message):
        read(content)


def test_the_checksum_is_that_of_the_formula_by_hand():
    # 0.019 * 100 is cut to 1, -2.5 * 100 is -250: ((0 * 281) ^ 997) = 997, then (997 * 281) ^ (-250 * 997)
    expected = ((997 * 281) ^ (-250 * 997)) % 2**16
    assert webui_checksum(torch.tensor([[0.019, -2.5]])) == f"{expected:04x}"


def test_the_checksum_is_four_digits():
    assert webui_checksum(torch.zeros(1, 3)) == "0000"
