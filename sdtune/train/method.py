"""What a method is to the loop: named parameters in, artifacts out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from sdtune.config.base import Options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from sdtune.data.types import ImageRecord, Subset
    from sdtune.export.artifact import AnyArtifact, ArtifactKind
    from sdtune.models.base import DiffusionModel, Part
    from sdtune.train.info import RunInfo

C = TypeVar("C", bound=Options)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamGroup:
    """Parameters that share a learning rate.

    Attributes:
        name: Shown in logs as `lr/NAME`, e.g. `unet`, `text_encoder`, `unet plus`.
        part: The part whose output they change; decides what can be cached.
        params: Stable name to parameter, fp32, requiring grad; names are unique over all groups.
        lr: Learning rate, as `config.rates.LearningRate`; None: `train.lr`.
        lr_scale: Factor on the rate, e.g. for one of two matrices that are multiplied.
        modules: How many layers they act on, for the plan.
        stop: When they stop learning, as `config.rates.Stop`; None: at the end of the run.
        weight_decay: Decoupled weight decay; None: `train.optimizer.weight_decay`.
    """

    name: str
    part: Part
    params: Mapping[str, nn.Parameter]
    lr: float | str | None = None
    lr_scale: float = 1.0
    modules: int = 0
    stop: float | str | None = None
    weight_decay: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutput:
    """What one forward gave; everything stays per sample.

    Attributes:
        loss: (B,) float32 mean over C, h, w of the run's loss (squared error unless chosen otherwise), weighted over
            the picture and by its timestep, before any weight of the sample.
        prediction: (B, 4, h, w) the model's answer.
        target: (B, 4, h, w) what it should have been.
        timesteps: (B,) int64.
    """

    loss: Tensor
    prediction: Tensor
    target: Tensor
    timesteps: Tensor


class Method(ABC, Generic[C]):
    """A way to train. The loop calls `attach` once, then the rest; a method never sees the optimizer.

    Attributes:
        kind: What the method exports; decides the folder in a webui.
    """

    kind: ArtifactKind

    def __init__(self, config: C) -> None:
        self.config = config

    def parts(self) -> Sequence[Part]:
        """List the parts that must be loaded before `attach`."""
        return ("unet",)

    @abstractmethod
    def attach(self, model: DiffusionModel, seed: int) -> Sequence[ParamGroup]:
        """Change the model so that it uses the new parameters; initialise them by `derive_generator(seed, ...)`."""

    @abstractmethod
    def export(self, model: DiffusionModel, run: RunInfo) -> Iterator[AnyArtifact]:
        """Give the files of the method, from the parameters as they are now."""

    def captions(self, text: str, subset: Subset) -> Sequence[str]:
        """Give the forms a caption can take, at least one; each visit draws one. The default leaves it as it is.

        It is called in several threads at once, so it changes nothing.
        """
        return (text,)

    def check(self, images: Sequence[ImageRecord]) -> None:
        """Refuse images or captions that it cannot learn from, before training; the default takes all.

        Args:
            images: The data set without regularization images.

        Raises:
            SdtuneError: A child that says what to change.
        """

    def notes(self) -> Sequence[str]:
        """Tell, after `attach`, what may surprise a user, one line each, for the plan; the default has nothing."""
        return ()

    def is_whole_in_files(self) -> bool:
        """Tell whether the exported files, put into the base model, make the trained model.

        The default says so; not where other adapters, which no file holds, were there while training.
        """
        return True

    def loss_terms(self, out: StepOutput) -> Mapping[str, Tensor]:
        """Split the loss into named terms (B,), which are added; the default is the diffusion loss alone."""
        return {"diffusion": out.loss}

    def before_step(self, model: DiffusionModel, step: int) -> None:
        """Act before optimizer step `step`, counted from 1, e.g. draw what its batches share; the default does nothing.

        What is drawn must be a function of the run's seed and the step alone, so that a resumed run draws the same.
        """

    def after_step(self, model: DiffusionModel, step: int) -> None:
        """Act after an optimizer step, e.g. clip norms; the default does nothing."""

    def metrics(self) -> Mapping[str, float]:
        """Give numbers to log; the default has none."""
        return {}
