"""Short trainings of every method on every family, and the numbers they leave: what golden files hold.

A run is six steps on a tiny model with random weights. What is written down of it are the loss and the gradient norm of
each step and, for each kind of trained tensor, its norm after the last step and the norm of its change.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import sdtune_dreambooth
import sdtune_hypernetwork
import sdtune_lora
import sdtune_lycoris
import sdtune_textual_inversion
from sdtune.api import hookimpl
from sdtune.testing.images import draw_picture
from sdtune.testing.runner import train
from sdtune.testing.tiny import tiny_model
from sdtune.train.watching.observers import Observer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

HERE = Path(__file__).parent
STEPS = 6
PLUGINS = (sdtune_dreambooth, sdtune_hypernetwork, sdtune_lora, sdtune_lycoris, sdtune_textual_inversion)

# Relative. Between machines the order of sums in float32 differs: other kernels, vector widths, thread counts. With
# SSE, AVX2 and AVX-512 kernels, one thread and two, no number of the cases tried was further off than 1.1e-6
# (`make.py --spread`).
TOLERANCE = 2e-5

COMMON = (
    "data.cache.latents=ram",
    "data.caption_dropout=0.2",
    "data.flip=true",
    "log.tensorboard=false",
    "output.name=golden",
    f"train.steps={STEPS}",
    "train.batch_size=2",
    "train.seed=11",
    "train.precision=fp32",
    "train.schedule.name=cosine",
    "train.schedule.warmup=2",
    "train.max_grad_norm=0.1",  # some steps are clipped, and some are not
    # Gradients that are zero but for rounding, as of a bias before a norm, move nothing with so large an eps.
    "train.optimizer.eps=1e-6",
)
METHODS = {
    "lora": ("lora.rank=2", "lora.alpha=1", "lora.conv_rank=1", "train.lr=1e-2"),
    "dylora": ("dylora.rank=4", "dylora.unit=2", "train.lr=1e-2"),
    "dreambooth": ("dreambooth.text_encoder=true", "dreambooth.unet_lr=1e-4", "dreambooth.text_encoder_lr=5e-5"),
    "textual_inversion": ("textual_inversion.vectors=2",),
    "hypernetwork": ("train.lr=1e-3",),
}
LYCORIS = {
    "locon": ("lycoris.rank=2",),
    "loha": ("lycoris.rank=2",),
    "lokr": ("lycoris.rank=2", "lycoris.factor=4"),
    "ia3": (),
    "full": (),
    "glora": ("lycoris.rank=2",),
    "diag-oft": ("lycoris.rank=4",),
    "boft": ("lycoris.rank=4", "lycoris.preset=attn-only"),
}
# Name to what makes the model: the family, and what it is taken to predict.
FAMILIES = {
    "sd1": ("sd1", "epsilon"),
    "sd2": ("sd2", "epsilon"),
    "sd2v": ("sd2", "v_prediction"),
    "sdxl": ("sdxl", "epsilon"),
}
_ALGOS = {"sd1": tuple(LYCORIS), "sd2": ("lokr",), "sd2v": ("loha",), "sdxl": ("lokr",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One training.

    Attributes:
        family: One of FAMILIES.
        name: The method, or lycoris and the algorithm: `lycoris-loha`.
        options: Overrides that choose and shape the method.
    """

    family: str
    name: str
    options: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The golden file."""
        return HERE / self.family / f"{self.name}.json"

    def __str__(self) -> str:
        return f"{self.family}-{self.name}"


def list_cases() -> list[Case]:
    """List every training that has a golden file."""
    cases = []
    for family in FAMILIES:
        cases += [
            Case(family=family, name=name, options=(f"method={name}", *options)) for name, options in METHODS.items()
        ]
        cases += [
            Case(
                family=family,
                name=f"lycoris-{algo}",
                options=("method=lycoris", f"lycoris.algo={algo}", *LYCORIS[algo]),
            )
            for algo in _ALGOS[family]
        ]
    return cases


def write_model(family: str, folder: Path) -> Path:
    """Write the model that a family's trainings begin from, where it is not there yet."""
    kind = FAMILIES[family][0]
    path = folder / kind / "model.safetensors"
    if not path.exists():
        tiny_model(path, kind, depths=(0, 1, 2) if kind == "sdxl" else None)
    return path


def write_data(folder: Path) -> Path:
    """Write the pictures: two shapes, one larger than is trained on, and their captions; drawn without text files."""
    captions = ("a photo of a zwx toy", "a zwx toy, red, on a table", "zwx toy")
    place = folder / "2_zwx toy"
    place.mkdir(parents=True, exist_ok=True)
    for index, (size, caption) in enumerate(zip(((96, 96), (144, 72), (96, 96)), captions, strict=True)):
        draw_picture(size, seed=index).save(place / f"{index}.png")
        (place / f"{index}.txt").write_text(caption, encoding="utf-8")
    return folder


class Recorder(Observer):
    """Watches one run, as a plugin that brings an observer."""

    __name__ = "golden_recorder"

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.grad_norms: list[float] = []
        self.norms: dict[str, float] = {}
        self.changes: dict[str, float] = {}
        self._before: dict[str, Tensor] = {}

    @hookimpl
    def sdtune_observers(self, run):
        return [self]

    def on_start(self, run, step):
        self._before = {name: value.detach().clone() for name, value in run.parameters().items()}

    def on_step(self, run, report):
        self.losses.append(report.loss)
        self.grad_norms.append(report.grad_norm)

    def on_end(self, run, step):
        after = {name: value.detach() for name, value in run.parameters().items()}
        self.norms = _norms(after)
        self.changes = _norms({name: after[name] - before for name, before in self._before.items()})


def _norms(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Give the norm of all tensors of one kind together: of a part, with one last name."""
    squares: dict[str, float] = {}
    for name, tensor in tensors.items():
        kind = f"{name.partition('.')[0]} {name.rpartition('.')[2]}"
        squares[kind] = squares.get(kind, 0.0) + float(tensor.double().square().sum())
    return {kind: math.sqrt(square) for kind, square in sorted(squares.items())}


def record(case: Case, folder: Path, *changes: str) -> dict[str, object]:
    """Train, and give the numbers.

    Args:
        case: What to train.
        folder: Models and pictures are kept in it; the run goes into a new folder inside.
        changes: Further overrides.
    """
    recorder, number = Recorder(), len(list(folder.glob("run-*")))
    # In 64 px the last level of SD1 and SD2 is one pixel: their norms have two numbers to a group there, and give
    # little but a sign, whose gradient is endless where they are equal. Rounding then changes everything.
    paths = (
        f"data.resolution={64 if case.family == 'sdxl' else 96}",
        f"model.path={write_model(case.family, folder)}",
        f"model.prediction={FAMILIES[case.family][1]}",
        f"data.path={write_data(folder / 'data')}",
        f"output.dir={folder / f'run-{number}'}",
    )
    train([*PLUGINS, recorder], *paths, *COMMON, *case.options, *changes)
    return {
        "losses": recorder.losses,
        "grad_norms": recorder.grad_norms,
        "norms": recorder.norms,
        "changes": recorder.changes,
    }


def read_golden(case: Case) -> dict[str, object]:
    """Read the numbers that were written down."""
    return json.loads(case.path.read_text(encoding="utf-8"))["numbers"]


def deviations(found: Mapping[str, object], golden: Mapping[str, object]) -> dict[str, float]:
    """Give how far each number is from the golden one, relative to that; names that only one has are infinitely far."""
    one, other = dict(_flat(found)), dict(_flat(golden))
    return {
        name: _deviation(one[name], other[name]) if name in one and name in other else math.inf
        for name in one.keys() | other.keys()
    }


def _deviation(found: float, golden: float) -> float:
    if found == golden:
        return 0.0
    return abs(found - golden) / abs(golden) if golden else math.inf


def _flat(numbers: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    for name, values in numbers.items():
        pairs = values.items() if isinstance(values, dict) else enumerate(values, start=1)
        for key, value in pairs:
            yield f"{name} {key}", value


def torch_version() -> str:
    """Give torch's version, without what it was built for."""
    return torch.__version__.partition("+")[0]
