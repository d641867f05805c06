"""Words that stand for vectors: placed as by hand, without a trace in the text encoder."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sdtune.config.model import ModelOptions
from sdtune.errors import ModelError


@pytest.fixture
def model(tiny_folder, open_sd):
    return open_sd(tiny_folder, "text_encoder")


def vectors(count, seed=0, width=64):
    drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return {"clip_l": drawn.requires_grad_()}


def hidden(model, *captions):
    return model.encode_prompt(captions).hidden


def encode_by_hand(model, rows, before, after):
    """Encode texts around rows of a larger token embedding."""
    encoder, tokenizer = model.part("text_encoder"), model.tokenizer
    embedding = encoder.get_input_embeddings()
    larger = nn.Embedding(embedding.num_embeddings + len(rows), embedding.embedding_dim)
    larger.weight = nn.Parameter(torch.cat([embedding.weight, rows]))
    new = list(range(embedding.num_embeddings, larger.num_embeddings))
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in (before, after)]
    row = [tokenizer.bos_token_id, *ids[0], *new, *ids[1], tokenizer.eos_token_id]
    row += [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(row))
    encoder.set_input_embeddings(larger)
    return encoder(torch.tensor([row])).last_hidden_state


def test_a_word_is_encoded_as_its_vectors_put_in_by_hand(model, tiny_folder, open_sd):
    own = vectors(3)
    model.set_embeddings({"zwx": own})
    found = hidden(model, "a photo of a zwx dog")
    expected = encode_by_hand(open_sd(tiny_folder, "text_encoder"), own["clip_l"], "a photo of a", "dog")
    assert torch.equal(found, expected)


def test_letters_are_not_told_apart_by_case(model):
    model.set_embeddings({"Zwx": vectors(2)})
    assert torch.equal(hidden(model, "a ZWX dog"), hidden(model, "a zwx dog"))


def test_a_word_inside_another_is_another_word(model):
    expected = hidden(model, "zwxdog")
    model.set_embeddings({"zwx": vectors(2)})
    assert torch.equal(hidden(model, "zwxdog"), expected)


def test_the_longest_name_goes_first(model):
    short, long = vectors(1, seed=1), vectors(2, seed=2)
    model.set_embeddings({"zwx": short, "zwx toy": long})
    both = hidden(model, "a zwx toy", "a zwx dog")
    model.set_embeddings({"zwx toy": long})
    assert torch.equal(hidden(model, "a zwx toy")[0], both[0])
    model.set_embeddings({"zwx": short})
    assert torch.equal(hidden(model, "a zwx dog")[0], both[1])


def test_a_word_whose_vectors_find_no_room_is_left_out(model):
    full = " ".join(["dog"] * 73)
    expected = hidden(model, full)
    model.set_embeddings({"zwx": vectors(3)})
    assert torch.equal(hidden(model, f"{full} zwx"), expected)


def test_a_word_at_the_border_opens_the_next_piece_whole(model):
    full, own = " ".join(["dog"] * 74), vectors(2)
    model.source = replace(model.source, options=ModelOptions(chunks=2))
    model.set_embeddings({"zwx": own})
    expected = hidden(model, full, "zwx cat").flatten(0, 1)
    torch.testing.assert_close(hidden(model, f"{full} zwx cat")[0], expected)
    assert (model.count_tokens(f"{full} zwx cat"), model.count_cut(f"{full} zwx cat")) == (77, 0)


def test_each_vector_of_a_word_has_the_words_weight(model):
    sections = model._texts[0].words
    model.set_embeddings({"zwx": vectors(2)})
    (units,) = sections.read(model.tokenizer, "a (zwx dog:1.5), x", weighted=True)
    assert [(len(unit.ids), unit.weight, unit.is_comma) for unit in units] == [
        (1, 1, False),
        (2, 1.5, False),
        (1, 1.5, False),
        (1, 1, True),
        (1, 1, False),
    ]


def test_the_last_word_that_fits_is_there(model):
    full = " ".join(["dog"] * 73)
    model.set_embeddings({"zwx": vectors(2)})
    assert not torch.equal(hidden(model, f"{full} zwx"), hidden(model, full))


def test_other_captions_are_encoded_as_before_to_the_last_bit(model):
    captions = ["a red dog, old", "", " ".join(["dog"] * 90)]
    expected = hidden(model, *captions)
    model.set_embeddings({"zwx": vectors(4)})
    assert torch.equal(hidden(model, *captions), expected)


def test_gradients_flow_into_the_vectors_that_were_called_alone(model):
    called, silent = vectors(2), vectors(2)
    model.set_embeddings({"zwx": called, "sks": silent})
    hidden(model, "a zwx dog").square().sum().backward()
    assert (called["clip_l"].grad.abs().sum(1) > 0).all()
    assert silent["clip_l"].grad.abs().sum() == 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_changed_vectors_change_the_answer(model):
    own = vectors(2)
    model.set_embeddings({"zwx": own})
    before = hidden(model, "a zwx dog")
    with torch.no_grad():
        own["clip_l"].mul_(2)
    assert not torch.equal(hidden(model, "a zwx dog"), before)


@pytest.mark.parametrize("change", ["reload", "unfreeze"])
def test_words_outlive_the_text_encoder(model, change):
    model.set_embeddings({"zwx": vectors(2)})
    before = hidden(model, "a zwx dog")
    if change == "reload":
        model.unload("text_encoder")
        model.load("text_encoder")
    else:
        model.unfreeze("text_encoder")
    assert torch.equal(hidden(model, "a zwx dog"), before)


def test_no_words_leave_no_trace(model):
    before, names = hidden(model, "a zwx dog"), list(model.state_dict())
    model.set_embeddings({"zwx": vectors(2)})
    assert list(model.state_dict()) == names
    model.set_embeddings({})
    assert torch.equal(hidden(model, "a zwx dog"), before)


def test_what_cannot_be_a_word_is_told_together(model):
    with pytest.raises(ModelError, match=r"(?s)'zwx' has shape \(2, 32\).*takes \(n, 64\).*1 to 75.*has no tokens"):
        model.set_embeddings({"zwx": vectors(2, width=32), "sks": vectors(76), "": vectors(1)})


def test_a_caption_without_words_has_a_gradient_of_zeros(model):
    own = vectors(2)
    model.set_embeddings({"zwx": own})
    hidden(model, "").square().sum().backward()  # a batch of such captions must not stop a run
    assert not own["clip_l"].grad.any()
