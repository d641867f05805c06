"""What a writer can get wrong is found: files of trained models are damaged, one mistake at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

import sdtune_dreambooth
import sdtune_hypernetwork
import sdtune_lora
import sdtune_lycoris
import sdtune_textual_inversion
from sdtune.export.certificate import certify
from sdtune.export.pickled import encode_pickled
from sdtune.export.probe import Probe, ask_loaded
from sdtune.export.weights import trained_layers
from sdtune.formats.consumers.reading import File, open_file, unpickle
from sdtune.plugins import Registry
from sdtune.testing.forms import write_form
from sdtune.testing.images import write_images
from sdtune.testing.runner import train
from sdtune.testing.tiny import tiny_components
from sdtune.train.assembly.assembling import open_base

pytestmark = pytest.mark.slow
REGISTRY = Registry.from_plugins(
    [sdtune_lora, sdtune_lycoris, sdtune_dreambooth, sdtune_textual_inversion, sdtune_hypernetwork]
)
MAIN = ("lora_up.weight", "hada_w1_b", "lokr_w2", "diff", "w_norm", "b1.weight", "oft_blocks")


def scaled(part, ends, factor):
    return lambda tensors: {
        name: tensor * factor if part in name and name.endswith(ends) else tensor for name, tensor in tensors.items()
    }


def dropped(part, end=""):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name or end not in name}


def renamed(*pairs):
    """Rename from left to right, all names at once where they are exchanged."""

    def change(tensors):
        return {_renamed(name, pairs): tensor for name, tensor in tensors.items()}

    return change


def _renamed(name, pairs):
    return next((name.replace(old, new) for old, new in pairs if old in name), name)


def exchanged(first, second):
    return renamed((first, second), (second, first))


def put(end, change):
    return lambda tensors: {name: change(t) if name.endswith(end) else t for name, t in tensors.items()}


def rolled(*order):
    return lambda tensor: torch.cat([tensor.chunk(3)[place] for place in order])


def transposed(tensors):
    """Write up for down, which goes unseen where a layer is square."""
    up, down = (next(n for n in tensors if "attn1_to_q.lora_" + side in n) for side in ("up", "down"))
    return tensors | {up: tensors[down].T.contiguous(), down: tensors[up].T.contiguous()}


def flags(**changes):
    return lambda content: content | changes


def at_width(change):
    def changed(content):
        width = next(key for key in content if isinstance(key, int))
        return content | {width: change(*content[width])}

    return changed


def last_matrix(factor):
    def change(first, second):
        name = [name for name, tensor in first.items() if tensor.dim() == 2][-1]
        return first | {name: first[name] * factor}, second

    return at_width(change)


ALPHAS = {
    "alpha dropped": dropped("attn1_to_q", ".alpha"),
    "alpha halved": scaled("attn1_to_q", ".alpha", 0.5),
    "alpha off by a tenth": scaled("attn1_to_q", ".alpha", 1.1),
}
ANY = {
    "layer dropped": dropped("attn1_to_q"),
    "layer renamed": renamed(("attn1_to_q", "attn1_to_query")),
    "delta zeroed": scaled("attn1_to_q", MAIN, 0.0),
    "sign flipped": scaled("attn1_to_q", MAIN, -1.0),
    "q and k exchanged": exchanged("attn1_to_q", "attn1_to_k"),
}
FEW = {name: ANY[name] for name in ("layer renamed", "sign flipped")}
TEXTS = {
    "no text encoder": dropped("lora_te"),
    "names of transformers 5": renamed(("text_model_encoder", "encoder")),
    "text encoder's alpha off by a tenth": scaled("lora_te", ".alpha", 1.1),
}
NORMS = {
    "norms zeroed": scaled("norm1", ("w_norm",), 0.0),
    "norms' biases zeroed": scaled("norm1", ("b_norm",), 0.0),
    "norms off by a tenth": scaled("norm1", ("w_norm", "b_norm"), 1.1),
    "norms dropped": dropped("w_norm"),
}
VAE = "first_stage_model.decoder.mid.attn_1"
MODEL = {
    "VAE's q and k exchanged": exchanged(f"{VAE}.q.", f"{VAE}.k."),
    "VAE's tensor zeroed": put("decoder.conv_in.weight", torch.zeros_like),
    "VAE's bias off": put("encoder.conv_out.bias", lambda tensor: tensor + 0.1),
    "VAE's attention flat": put(f"{VAE}.q.weight", lambda tensor: tensor.flatten(1)),
    "VAE dropped": dropped("first_stage_model"),
    "UNet's q and k exchanged": exchanged("middle_block.1.transformer_blocks.0.attn1.to_q", "attn1.to_k"),
    "UNet's tensor off by a tenth": put("middle_block.0.in_layers.2.weight", lambda tensor: tensor * 1.1),
    "UNet's key renamed": renamed(("time_embed.0.weight", "time_embed.0.kernel")),
    "in_proj as k, q, v": put("in_proj_weight", rolled(1, 0, 2)),
    "in_proj's bias as k, q, v": put("in_proj_bias", rolled(1, 0, 2)),
}
XL = {
    "text_projection not transposed": put("text_projection", lambda tensor: tensor.T.contiguous()),
    "mark of v dropped": dropped("v_pred"),
    "token tables rolled": put("token_embedding.weight", lambda tensor: tensor.roll(1, 0)),
}
VECTORS = {
    "rows reversed": put("clip_l", lambda tensor: tensor.flip(0)),
    "both reversed": put("", lambda tensor: tensor.flip(0)),
    "encoders exchanged": exchanged("clip_l", "clip_g"),
    "row dropped": put("", lambda tensor: tensor[:-1].clone()),
    "off by a tenth": put("clip_g", lambda tensor: tensor * 1.1),
    "one encoder alone": dropped("clip_g"),
}
NETWORKS = {
    "k and v exchanged": at_width(lambda first, second: (second, first)),
    "layers in another order": at_width(lambda first, second: (type(first)(reversed(first.items())), second)),
    "last layer off by a tenth": last_matrix(1.1),
    "last layer zeroed": last_matrix(0.0),
    "another activation": flags(activation_func="tanh"),
    "activate_output inverted": flags(activate_output=False),
    "is_layer_norm inverted": flags(is_layer_norm=True),
    "dropout on": flags(use_dropout=True, dropout_structure=None),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training, and what its file is damaged by."""

    family: str
    options: tuple[str, ...]
    damages: dict[str, object] = field(default_factory=dict)
    prediction: str = "epsilon"


LOW_RANK = ("method=lora", "lora.rank=4", "lora.alpha=2")
LYCORIS = ("method=lycoris", "lycoris.rank=4", "lycoris.alpha=2", "lycoris.preset=attn-only")
WHOLE = ("method=dreambooth", "dreambooth.unet_lr=1e-3", "dreambooth.text_encoder=true")
CASES = {
    "lora": Case(
        family="sd1",
        options=(*LOW_RANK, "save.dtype=fp16"),
        damages=ALPHAS | ANY | TEXTS | {"up and down transposed": transposed},
    ),
    "lora of convolutions": Case(
        family="sdxl",
        options=(*LOW_RANK, "lora.conv_rank=2", "save.dtype=bf16"),
        damages={
            "text encoders exchanged": exchanged("lora_te1", "lora_te2"),
            "alpha off by a tenth": scaled("in_layers_2", ".alpha", 1.1),
        },
    ),
    "dylora": Case(
        family="sd2",
        prediction="v_prediction",
        options=("method=dylora", "dylora.rank=4", "dylora.unit=2", "dylora.alpha=2", "save.dtype=bf16"),
        damages=ALPHAS,
    ),
    "dora": Case(
        family="sd2",
        options=(*LYCORIS, "lycoris.weight_decompose=true", "save.dtype=fp16"),
        damages={"magnitudes dropped": dropped("attn1_to_q", "dora_scale"), **FEW},
    ),
    "loha": Case(family="sd1", options=(*LYCORIS, "lycoris.algo=loha", "save.dtype=bf16"), damages=ALPHAS | FEW),
    "lokr and norms": Case(
        family="sd1",
        options=("method=lycoris", "lycoris.algo=lokr", "lycoris.norms=true", "save.dtype=fp16"),
        damages=NORMS | FEW,
    ),
    "full": Case(family="sd1", options=(*LYCORIS[:1], "lycoris.algo=full", "save.dtype=fp32"), damages=FEW),
    "glora": Case(family="sd1", options=(*LYCORIS, "lycoris.algo=glora", "save.dtype=fp16"), damages=FEW),
    "diag-oft": Case(family="sd1", options=(*LYCORIS[:2], "lycoris.algo=diag-oft", "save.dtype=bf16"), damages=FEW),
    "model with a sidecar": Case(
        family="sd2", prediction="v_prediction", options=(*WHOLE, "save.dtype=fp16"), damages=MODEL
    ),
    "model with marks": Case(
        family="sdxl", prediction="v_prediction", options=(*WHOLE, "save.dtype=fp32"), damages=MODEL | XL
    ),
    "embedding": Case(
        family="sdxl",
        options=("method=textual_inversion", "textual_inversion.token=zwx", "textual_inversion.formats=[safetensors]"),
        damages=VECTORS,
    ),
    "hypernetwork": Case(
        family="sd1",
        options=("method=hypernetwork", "hypernetwork.activation=relu", "hypernetwork.activate_output=true"),
        damages=NETWORKS,
    ),
}
TRIALS = [(name, damage) for name, case in CASES.items() for damage in ("", *case.damages)]


class Subject:
    """A trained model, its base, and its file."""

    def __init__(self, run, base):
        names = {file.suffix: file for file in run.folder.exports.iterdir()}
        self.kind, self.base = run.method.kind, base
        path = names[".pt" if self.kind == "hypernetwork" else ".safetensors"]
        self.file = open_file(path, self.kind)
        self.content = unpickle(path) if self.file.is_pickled else self.file.tensors
        has_vae = self.kind == "checkpoint"
        self.probe = Probe(captions=(f"a picture of {path.stem}", "a photo of a toy"), has_vae=has_vae)
        self.trained = ask_loaded(run.model, self.probe)
        self.layers = trained_layers(run.model, is_whole=has_vae, words={path.stem: path.stem})
        for part in self.probe.parts:
            base.load(part)
        self.unable = {row.consumer for row in self.certify(self.content).rows if row.is_natural}

    def certify(self, content, metadata=None):
        """Certify what is written instead."""
        path, told = self.file.path, self.file.metadata if metadata is None else metadata
        if self.file.is_pickled:
            path = path.with_name("damaged.pt")
            path.write_bytes(encode_pickled(content))
            content = {}
        file = File(path=path, kind=self.kind, tensors=content, metadata=told)
        asked = ("a1111", "comfyui")
        return certify([file], self.base, self.probe, trained=self.trained, weights=self.layers, asked=asked)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("power")
    images = write_images(folder / "toy", 1, caption="a photo of a zwx toy")[0].parent

    def options(case):
        place = folder / f"{case.family}-{case.prediction}"
        place.mkdir(exist_ok=True)
        depths = (0, 1, 2) if case.family == "sdxl" else None
        form = write_form(
            "file", place, tiny_components(case.family, depths=depths), case.family, prediction=case.prediction
        )
        return (
            *(f"model.{name}={value}" for name, value in form.items()),
            *(f"data.path={images}", "data.resolution=64", "data.cache.latents=ram", "log.tensorboard=false"),
            *("train.steps=2", "train.lr=1e-2", "output.name=thing", *case.options),
        )

    return options


@pytest.fixture(scope="module")
def subject(options, tmp_path_factory):
    """Give the subject of a case, trained when it is first asked for; one is kept."""
    kept = {}

    def subject(name):
        if name not in kept:
            kept.clear()
            run = train(REGISTRY, *options(CASES[name]), f"output.dir={tmp_path_factory.mktemp('run')}")
            kept[name] = Subject(run, open_base(run.options, REGISTRY))
        return kept[name]

    return subject


@pytest.mark.parametrize(("name", "damage"), TRIALS)
def test_a_damage_is_found_and_a_true_file_is_not_blamed(subject, name, damage):
    tested = subject(name)
    change = CASES[name].damages.get(damage, dict)
    made = tested.certify(change(tested.content))
    blamed = {row.consumer for row in made.rows if row.fault(is_chosen=True)} - tested.unable
    assert bool(blamed) == bool(damage)
