"""The schema of a run: every option of the core, its type, default, bounds and meaning.

A method's own options stand in a section named after the method; `sdtune.config.compose` adds it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sdtune.config.base import Options
from sdtune.config.data import DataOptions
from sdtune.config.kinds import Consumer, PositiveInt, SamplerName, Size
from sdtune.config.model import ModelOptions
from sdtune.config.objective import LossOptions, NoiseOptions, TimestepOptions
from sdtune.config.regularization import RegularizationOptions
from sdtune.config.train import TrainOptions
from sdtune.config.validation import ValidationOptions
from sdtune.config.watch import WatchOptions


class SaveOptions(Options):
    """Checkpoints to resume from, and files to use."""

    every_steps: PositiveInt | None = None
    """Save a checkpoint every so many steps; the last step is always saved."""
    every_minutes: Annotated[float, Field(gt=0)] | None = 5.0
    """Save a checkpoint when so many minutes have passed since the last one: what a crash or a power cut costs at most.
    Large checkpoints are saved less often, so that saving takes a twentieth of the time at most. null: never."""
    every_epochs: PositiveInt | None = None
    """Export a file (NAME-000002) every so many epochs; the last one is always exported (NAME)."""
    keep: PositiveInt = 2
    """How many checkpoints stay."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp16"
    """Precision of exported files."""


class PreviewOptions(Options):
    """Pictures drawn while training, always with the same seeds."""

    prompts: tuple[str, ...] = ()
    """What to draw; nothing is drawn without prompts."""
    negative: str = ""
    """Negative prompt."""
    every_steps: PositiveInt | None = None
    """Draw every so many steps."""
    every_epochs: PositiveInt | None = None
    """Draw every so many epochs. Before the first and after the last step pictures are always drawn."""
    sampler: SamplerName = "dpmpp_2m_karras"
    """Sampler."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    """Sampling steps."""
    cfg: Annotated[float, Field(ge=1, le=50)] = 7.0
    """Guidance scale; 1 is no guidance."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Seed of the first picture; the next ones count up."""
    size: Size | None = None
    """Side in px or WIDTHxHEIGHT; null: the resolution of the data."""


class OutputOptions(Options):
    """Where results go."""

    dir: Path | None = None
    """The run's folder, made for it; null: runs/NAME."""
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f/\\:*?\"<>|]+$")] | None = None
    """Name of the run and of its exported file; null: DATAFOLDER-METHOD."""
    webui_dir: Path | None = None
    """Folder of A1111 or Forge: finished files are copied to where it looks for them, as `sdtune export` does."""
    comfyui_dir: Path | None = None
    """Folder of ComfyUI: the same."""
    comment: str = ""
    """Written into the exported file's metadata."""
    certify: bool = True
    """Read every file back when it is written, as other programs do, and compare the answers with the trained model's.
    Frozen parts of the model serve as the base; parts that are trained as a whole are opened once more. What is found
    stands in the file's metadata and in `run.json`. A fault is told at once, and makes the run's end an error."""
    consumers: tuple[Consumer, ...] = ()
    """Programs the files must work in, of a1111, forge, comfyui, kohya and diffusers: it is an error when one does not
    read them as trained. Empty: all are asked, and what a program cannot do by nature is a warning; but where a copy
    goes to `webui_dir` or `comfyui_dir`, that program must read it."""


class LogOptions(Options):
    """What is written while training."""

    every_steps: PositiveInt = 1
    """Read and write loss and learning rates every so many steps."""
    tensorboard: bool = True
    """Write TensorBoard events into the run folder."""
    forecast: bool = True
    """Tell memory, disk and time before the first step, which takes a few seconds."""
    check: bool = True
    """Tell what is wrong with images and captions before the first step; `sdtune data check` tells more."""


class CoreOptions(Options):
    """A whole run, without the method's own section."""

    method: str = ""
    """How to train, or several ways joined by `+`; `sdtune plugins` lists them. Empty: the usual one."""
    model: ModelOptions = ModelOptions()
    """The base model."""
    data: DataOptions = DataOptions()
    """Images and captions."""
    regularization: RegularizationOptions = RegularizationOptions()
    """Pictures that keep the subject's class what it was (prior preservation), for every method."""
    loss: LossOptions = LossOptions()
    """What counts as an error."""
    noise: NoiseOptions = NoiseOptions()
    """The noise that is added."""
    timesteps: TimestepOptions = TimestepOptions()
    """How often each timestep is trained."""
    train: TrainOptions = TrainOptions()
    """The loop."""
    validation: ValidationOptions = ValidationOptions()
    """Held-out images, whose loss tells whether a run learns."""
    save: SaveOptions = SaveOptions()
    """Checkpoints and exported files."""
    preview: PreviewOptions = PreviewOptions()
    """Pictures while training."""
    output: OutputOptions = OutputOptions()
    """Where results go."""
    log: LogOptions = LogOptions()
    """Logs."""
    watch: WatchOptions = WatchOptions()
    """What is watched while training."""
