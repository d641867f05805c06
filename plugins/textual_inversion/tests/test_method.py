from types import SimpleNamespace

import pytest
import torch

import sdtune_textual_inversion
from sdtune.api import ConfigError, ModelError, read_embedding
from sdtune.testing.images import write_images
from sdtune.testing.runner import resume_training, train
from sdtune.testing.webui import load_like_webui
from sdtune_textual_inversion.config import TextualInversionOptions
from sdtune_textual_inversion.method import TextualInversionMethod

PLUGINS = [sdtune_textual_inversion]
DOG = SimpleNamespace(name="10_dog")
RUN = SimpleNamespace(suffix="-000002", step=7, base_digest="ab" * 32, base_name="tiny", picture=None)


def method(**options):
    return TextualInversionMethod(TextualInversionOptions(**options))


def attach(model, **options):
    made = method(**options)
    return made, made.attach(model, 0)


def images(*captions):
    return [SimpleNamespace(caption=caption, subset=DOG) for caption in captions]


@pytest.fixture
def run(model_path, make_model, tmp_path):
    """Train for some steps on three drawings."""
    make_model()
    write_images(tmp_path / "data" / "3_thing", 3, caption="a red thing {index}, small")

    def run(*more, steps=4, output="out", **options):
        return train(
            PLUGINS,
            "method=ti",
            f"model.path={model_path}",
            f"data.path={tmp_path / 'data'}",
            "data.resolution=64",
            "data.cache.latents=ram",
            f"output.dir={tmp_path / output}",
            f"train.steps={steps}",
            "log.tensorboard=false",
            *more,
            **options,
        )

    return run


def test_the_vectors_begin_from_the_text(model):
    _, (group,) = attach(model, token="newt", vectors=5, init_text="red dog")
    red, dog = model.embed_tokens("red dog")["clip_l"]
    expected = torch.stack([red, red, red, dog, dog])
    assert torch.equal(group.params["embedding.newt.clip_l"], expected)
    assert (group.name, group.part, group.modules, group.lr, group.weight_decay) == (
        "newt", "text_encoder", 1, 5e-3, 0.0
    )  # fmt: skip


def test_attaching_a_word_that_begins_as_another_changes_no_bit(model):
    expected = model.encode_prompt(["a photo of a red dog"]).hidden
    attach(model, token="newt", vectors=1, init_text="red")
    assert torch.equal(model.encode_prompt(["a photo of a newt dog"]).hidden, expected)


def test_only_the_vectors_require_grad(model):
    _, groups = attach(model, tokens=[{"name": "newt"}, {"name": "eft", "lr": "0.1:5", "vectors": 2}])
    assert not any(parameter.requires_grad for parameter in model.parameters())
    parameters = [parameter for group in groups for parameter in group.params.values()]
    assert [tuple(parameter.shape) for parameter in parameters] == [(4, 64), (2, 64)]
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in parameters)
    assert [group.lr for group in groups] == [5e-3, "0.1:5"]


def test_every_vector_gets_a_gradient(model):
    _, (group,) = attach(model, token="newt", init_text="red")
    x_t = torch.randn(1, 4, 8, 8)
    model.denoise(x_t, torch.tensor([500]), model.encode_prompt(["a newt"])).square().sum().backward()
    (vectors,) = group.params.values()
    assert (vectors.grad.abs().sum(1) > 0).all()


def test_gradient_checkpointing_changes_no_gradient(model):
    _, (group,) = attach(model, token="newt", init_text="red")
    (vectors,), x_t = group.params.values(), torch.randn(1, 4, 8, 8)

    def gradient():
        out = model.denoise(x_t, torch.tensor([500]), model.encode_prompt(["a newt"]))
        return torch.autograd.grad(out.square().sum(), vectors)[0]

    expected = gradient()
    model.train()
    model.enable_gradient_checkpointing()
    assert torch.equal(gradient(), expected)


def test_an_exported_file_begins_another_run(model, make_model, tmp_path):
    first, (group,) = attach(model, token="newt", init_text="red dog", vectors=2)
    artifact = next(first.export(model, RUN))
    torch.save(dict(artifact.content), tmp_path / "newt.pt")
    _, (again,) = attach(make_model(), tokens=[{"name": "eft", "init_file": tmp_path / "newt.pt"}])
    assert torch.equal(again.params["embedding.eft.clip_l"], group.params["embedding.newt.clip_l"])


@pytest.mark.parametrize(
    ("tensors", "vectors", "kind", "message"),
    [
        ({"a": torch.ones(2, 64)}, 3, ConfigError, "has 2 vectors, not 3"),
        ({"a": torch.ones(2, 32)}, None, ModelError, r"shape \(2, 32\)"),
        ({"clip_l": torch.ones(2, 64), "clip_g": torch.ones(2, 64)}, None, ModelError, "clip_l, clip_g"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(model, tmp_path, tensors, vectors, kind, message):
    torch.save(tensors, tmp_path / "a.pt")
    with pytest.raises(kind, match=message):
        attach(model, tokens=[{"name": "newt", "init_file": tmp_path / "a.pt", "vectors": vectors}])


def test_files_are_named_as_the_word_with_the_true_step(model):
    made, _ = attach(model, token="newt")
    artifacts = list(made.export(model, RUN))
    assert {artifact.stem for artifact in artifacts} == {"newt-000002"}
    assert [artifact.is_delivered for artifact in artifacts] == [True, False, False]
    content = artifacts[0].content
    assert (content["name"], content["step"], content["sd_checkpoint"]) == ("newt-000002", 7, "ababababab")


def test_the_form_named_first_is_delivered(model):
    made, _ = attach(model, token="newt", formats=["png", "pt"])
    assert [(artifact.suffix, artifact.is_delivered) for artifact in made.export(model, RUN)] == [
        (".png", True),
        (".pt", False),
    ]


def test_captions_are_the_template_with_word_and_caption():
    assert method(token="newt", template="none").captions("a newt, red", DOG) == ("a newt, red",)
    assert "a photo of a newt" in method(token="newt").captions("red", DOG)
    assert "a photo of a newt, red" in method(token="newt", template="subject_filewords").captions("red", DOG)


def test_words_of_other_folders_stay_out():
    both = method(
        tokens=[{"name": "newt", "subsets": ["10_dog"]}, {"name": "eft", "subsets": ["5_cat"]}, {"name": "s"}]
    )
    assert "a newt s" in both.captions("", DOG)
    assert not any("eft" in form for form in both.captions("", DOG))


def test_a_folder_without_a_word_keeps_its_captions():
    alone = method(tokens=[{"name": "newt", "subsets": ["5_cat"]}])
    assert alone.captions("red", DOG) == ("red",)


def test_a_word_in_no_caption_is_refused():
    with pytest.raises(ConfigError, match=r"no caption has the word 'newt'.*template=subject"):
        method(token="newt", template="none").check(images("a dog", "newts"))
    method(token="newt", template="none").check(images("a dog", "a newt"))


def test_long_vectors_are_shortened_and_short_ones_left(model):
    made, (group,) = attach(model, token="newt", vectors=2, max_norm=0.5)
    (vectors,) = group.params.values()
    with torch.no_grad():
        vectors.copy_(torch.stack([torch.full((64,), 1.0), torch.full((64,), 0.01)]))
    made.after_step(model, 1)
    torch.testing.assert_close(vectors.norm(dim=1), torch.tensor([0.5, 0.08]))
    assert made.metrics()["norm/newt"] == pytest.approx(0.29)


def test_zeros_survive_the_clamp(model):
    made, (group,) = attach(model, token="newt", init_text="", max_norm=0.5)
    made.after_step(model, 1)
    assert not next(iter(group.params.values())).any()


def test_training_moves_the_vectors_and_not_one_bit_else(run, make_model):
    before = make_model()
    done = run("textual_inversion.token=newt", "textual_inversion.init_text=red")
    red = before.embed_tokens("red")["clip_l"]
    assert not torch.isclose(done.parameters()["embedding.newt.clip_l"], red).any(1).all()
    for part in ("unet", "text_encoder"):
        expected, found = before.part(part).state_dict(), done.model.part(part).state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_run_writes_every_form_of_every_word(run, same):
    done = run(
        "textual_inversion.tokens=[{name: newt, vectors: 2}, {name: eft}]",
        "preview.prompts=[a newt]",
        "preview.steps=1",
    )
    exports = done.folder.exports
    assert {path.name for path in exports.iterdir()} == {
        f"{name}.{form}" for name in ("newt", "eft") for form in ("pt", "safetensors", "png")
    }
    pt, card, tensors = (read_embedding(exports / f"newt.{form}") for form in ("pt", "png", "safetensors"))
    assert same(pt, card)
    assert same(pt, tensors)
    assert load_like_webui(exports / "newt.pt")["step"] == 4


def test_webuis_rates_end_the_run(run):
    done = run("textual_inversion.lr=0.01:2, 1e-3:3", steps=100)
    assert done.timetable.steps == 3


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits(run, tmp_path):
    whole = run("textual_inversion.template=style_filewords", "data.shuffle_tags=true")
    with pytest.raises(Exception, match="stopped after step 2"):
        run("textual_inversion.template=style_filewords", "data.shuffle_tags=true", output="cut", stop_after=2)
    resume_training(PLUGINS, tmp_path / "cut")
    found, expected = (folder / "exports" / "zwx.pt" for folder in (tmp_path / "cut", whole.folder.path))
    assert found.read_bytes() == expected.read_bytes()
