"""Two methods in one run: each has its section, its parameters and its files; one loop trains both."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

import sdtune_lora
from sdtune.api import Method, MethodSpec, Options, ParamGroup, hookimpl
from sdtune.errors import ConfigError, ModelError
from sdtune.export.artifact import PickledArtifact
from sdtune.plugins import Registry
from sdtune.specs import combine
from sdtune.testing.images import write_images
from sdtune.testing.runner import train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.assembly.assembling import check_family
from sdtune.train.assembly.combine import CombinedMethod


class WordOptions(Options):
    """Options of the second method."""

    word: str = "zwx"
    """The new word."""


class Words(Method):
    """Train one new word."""

    kind = "embedding"

    def attach(self, model, seed):
        self.vectors = nn.Parameter(model.embed_tokens("dog")["clip_l"])
        model.set_embeddings({self.config.word: {"clip_l": self.vectors}})
        params = {"word": self.vectors}
        return [ParamGroup(name="words", part="text_encoder", params=params, modules=1)]

    def export(self, model, run):
        yield PickledArtifact(kind=self.kind, stem=self.config.word, content={"vectors": self.vectors.detach()})

    def metrics(self):
        return {"word/norm": float(self.vectors.detach().norm())}


class Again(Words):
    """Train the same parameters as the first method."""

    def attach(self, model, seed):
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        params = {f"again.{name}": model.get_parameter(name) for name in names}
        return [ParamGroup(name="again", part="unet", params=params)]


@pytest.fixture
def plugins(monkeypatch):
    module = ModuleType("toy_words")
    module.Words, module.Again = Words, Again
    monkeypatch.setitem(sys.modules, "toy_words", module)
    specs = [
        MethodSpec(name="words", summary="words", config=WordOptions, factory="toy_words:Words", aliases=("w",)),
        MethodSpec(name="again", summary="again", config=WordOptions, factory="toy_words:Again"),
    ]

    class Plugin:
        @staticmethod
        @hookimpl
        def sdtune_methods():
            return specs

    return [sdtune_lora, Plugin()]


@pytest.fixture
def run(plugins, tmp_path):
    def start(method, *more):
        write_images(tmp_path / "images", 2, caption="a zwx")
        return train(
            plugins,
            f"method={method}",
            f"model.path={tiny_sd1(tmp_path / 'model')}",
            f"data.path={tmp_path / 'images'}",
            f"output.dir={tmp_path / 'run'}",
            "output.name=both",
            *("data.resolution=64", "data.cache.latents=ram", "train.steps=2", "train.lr=1e-2"),
            *("lora.rank=2", "lora.text_encoder=false", "log.tensorboard=false"),
            *more,
        )

    return start


@pytest.mark.slow
def test_both_learn_and_both_files_are_written(run):
    done = run("lora+w", "words.word=zwx")
    assert [group.name for group in done.groups] == ["unet", "words"]
    assert sorted(path.name for path in done.folder.exports.iterdir()) == ["both.safetensors", "zwx.pt"]
    vectors = torch.load(done.folder.exports / "zwx.pt", weights_only=True)["vectors"]
    assert not torch.equal(vectors, done.model.embed_tokens("dog")["clip_l"])
    assert [file["kind"] for file in done.folder.read_facts()["files"]] == ["lora", "embedding"]


def test_parameters_that_two_methods_train_are_refused(run):
    with pytest.raises(ConfigError, match="train the same parameters"):
        run("lora+again")


def test_a_method_is_named_once(plugins):
    with pytest.raises(ConfigError, match="twice"):
        Registry.from_plugins(plugins).method("words+w")


def test_only_families_that_all_know_are_left():
    def make(name, *families):
        known = frozenset(families) or None
        return MethodSpec(name=name, summary=name, config=WordOptions, factory="", families=known)

    spec = combine([make("a"), make("b", "sd1", "sd2"), make("c", "sd2")])
    check_family(spec, "sd2")
    with pytest.raises(ModelError, match="does not work on sd1"):
        check_family(spec, "sd1")


def test_flags_of_both_are_known_and_the_first_named_wins():
    from sdtune.cli.request import _flag_owners

    specs = [
        MethodSpec(name=name, summary="", config=WordOptions, factory="", flags=("word", own))
        for name, own in (("a", "x"), ("b", "y"))
    ]
    owners = {flag: spec.name for flag, spec in _flag_owners(combine(specs)).items()}
    assert owners == {"word": "a", "x": "a", "y": "b"}


def test_a_method_must_say_what_it_exports(plugins):
    from sdtune.train.assembly.assembling import load_method

    class Silent(Method):
        attach = export = None

    sys.modules["toy_words"].Silent = Silent
    spec = MethodSpec(name="silent", summary="", config=WordOptions, factory="toy_words:Silent")
    with pytest.raises(ConfigError, match="does not say what it exports"):
        load_method(spec, SimpleNamespace())


def test_every_form_of_one_method_has_the_forms_of_the_next():
    class Forms(Method):
        kind = "embedding"
        attach = export = None

        def captions(self, text, subset):
            return [text, f"{text}{self.config}"]

    both = CombinedMethod({"a": Forms("1"), "b": Forms("2")})
    assert both.captions("x", None) == ("x", "x2", "x1", "x12")
