"""Captions of one to four pieces through a whole model: each is answered as if it were alone."""

import pytest
import torch

from sdtune.config.model import ModelOptions
from sdtune.models.open import open_model

SHORT, LONG = "a red dog", ", ".join(["a photo of a cat"] * 30)  # LONG: 179 tokens


@pytest.fixture
def open_reading(tiny_folder, registry):
    """Open the tiny model with options of reading."""

    def open_reading(*, dtype=torch.float32, **options):
        model_options = ModelOptions(path=str(tiny_folder), **options)
        model = open_model(model_options, dtype=dtype, device=torch.device("cpu"), registry=registry)
        model.load("text_encoder")
        model.load("unet")
        return model

    return open_reading


def test_short_captions_are_encoded_as_with_one_piece_to_the_last_bit(open_reading):
    captions = ["", SHORT, "a (red) dog: [old]"]
    expected = open_reading().encode_prompt(captions)
    found = open_reading(chunks=4).encode_prompt(captions)
    assert torch.equal(found.hidden, expected.hidden)
    assert found.mask is None


@pytest.mark.parametrize(("count", "chunks", "length", "cut"), [(75, 3, 77, 0), (76, 3, 154, 0), (76, 1, 77, 1)])
def test_a_caption_takes_as_many_pieces_as_it_needs(open_reading, count, chunks, length, cut):
    model, caption = open_reading(chunks=chunks), " ".join(["dog"] * count)
    assert model.encode_prompt([caption]).hidden.shape == (1, length, 64)
    assert model.count_tokens(caption) == count
    assert model.count_cut(caption) == cut


def test_each_piece_is_encoded_on_its_own(open_reading):
    model = open_reading(chunks=2)
    first, second = " ".join(["dog"] * 75), "a red cat"
    found = model.encode_prompt([f"{first} {second}"]).hidden[0]
    expected = model.encode_prompt([first, second]).hidden.flatten(0, 1)
    torch.testing.assert_close(found, expected)


def test_break_begins_a_piece_where_words_have_weights(open_reading):
    weighted = open_reading(chunks=2, weighted_words=True).encode_prompt(["a dog BREAK a cat"]).hidden[0]
    assert torch.equal(weighted, open_reading().encode_prompt(["a dog", "a cat"]).hidden.flatten(0, 1))
    assert open_reading(chunks=2).encode_prompt(["a dog BREAK a cat"]).hidden.shape[1] == 77


def test_weights_off_leave_brackets_to_the_tokenizer(open_reading):
    caption = "a (red:1.3) [dog]"
    on, off = open_reading(weighted_words=True), open_reading()
    assert (on.count_tokens(caption), on.count_tokens("a red dog")) == (3, 3)
    assert off.count_tokens(caption) > 3
    assert torch.equal(on.encode_prompt(["a red dog"]).hidden, off.encode_prompt(["a red dog"]).hidden)


def test_weights_multiply_hidden_states_and_leave_other_captions_alone(open_reading):
    model = open_reading(weighted_words=True)
    final = model.part("text_encoder").get_submodule("final_layer_norm")
    torch.nn.init.constant_(final.bias, 0.3)
    plain = model.encode_prompt(["a red dog"]).hidden[0]
    found, beside = model.encode_prompt(["a (red:1.5) dog", "a red dog"]).hidden
    scaled = plain.clone()
    scaled[2] *= 1.5
    torch.testing.assert_close(found, scaled * plain.mean() / scaled.mean())
    torch.testing.assert_close(beside, plain)


def predict(model, cond):
    """Denoise the same latents at two timesteps, with the text's own gradients kept."""
    batch = cond.hidden.shape[0]
    x_t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).expand(batch, -1, -1, -1)
    return model.denoise(x_t, torch.full((batch,), 500), cond)


def test_a_caption_is_answered_as_if_it_were_alone(open_reading):
    """The mask hides what fills a short caption up; in float64, since answers are rounded to float32 at the end."""
    model = open_reading(chunks=3, dtype=torch.float64)
    captions = [SHORT, LONG, "", LONG[:400]]
    alone = torch.cat([predict(model, model.encode_prompt([caption])) for caption in captions])
    together = predict(model, model.encode_prompt(captions))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-7)


def test_without_the_mask_it_would_not_be(open_reading):
    model = open_reading(chunks=3)
    cond = model.encode_prompt([SHORT, LONG])
    unmasked = type(cond)(hidden=cond.hidden)
    assert (predict(model, unmasked) - predict(model, cond))[0].abs().max() > 1e-3


def test_gradients_are_those_of_captions_alone(open_reading):
    model = open_reading(chunks=3, dtype=torch.float64)
    parameters = [*model.part("unet").parameters(), *model.part("text_encoder").parameters()]
    model.requires_grad_(True)

    def gradients(*batches):
        loss = sum(predict(model, model.encode_prompt(batch)).square().sum() for batch in batches)
        given = torch.autograd.grad(loss, parameters, allow_unused=True)
        return torch.cat([gradient.flatten() for gradient in given if gradient is not None])

    alone, together = gradients([SHORT], [LONG]), gradients([SHORT, LONG])
    assert (together - alone).norm() < 1e-6 * alone.norm()


def test_a_word_in_the_second_piece_gets_a_gradient(open_reading):
    model = open_reading(chunks=2)
    own = {"clip_l": torch.randn(3, 64).requires_grad_()}
    model.set_embeddings({"zwx": own})
    hidden = model.encode_prompt([f"{' '.join(['dog'] * 74)} zwx"]).hidden
    assert not torch.autograd.grad(hidden[:, :77].sum(), own["clip_l"], retain_graph=True)[0].any()
    assert torch.autograd.grad(hidden[:, 77:].square().sum(), own["clip_l"])[0].any(1).all()


def test_gradient_checkpointing_keeps_the_mask(open_reading):
    model = open_reading(chunks=3)
    cond = model.encode_prompt([SHORT, LONG])
    parameters = list(model.unfreeze("unet").values())
    model.train()
    expected = torch.autograd.grad(predict(model, cond).square().sum(), parameters)
    model.enable_gradient_checkpointing()
    found = torch.autograd.grad(predict(model, cond).square().sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change", [{"chunks": 2}, {"weighted_words": True}, {"clip_skip": 2}, {"dtype": torch.bfloat16}]
)
def test_the_digest_tells_readings_apart(open_reading, change):
    assert open_reading(**change).text_digest != open_reading().text_digest


def test_the_digest_tells_words_apart(open_reading):
    model = open_reading()
    plain = model.text_digest
    assert plain == open_reading().text_digest
    model.set_embeddings({"zwx": {"clip_l": torch.ones(1, 64)}})
    one = model.text_digest
    model.set_embeddings({"zwx": {"clip_l": torch.zeros(1, 64)}})
    assert len({plain, one, model.text_digest}) == 3
