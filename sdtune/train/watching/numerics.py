"""A step that must not be taken: told with names, written down, and the last good state kept."""

from __future__ import annotations

import json
import logging
import math
from typing import TYPE_CHECKING, Literal

import torch

from sdtune.errors import NumericsError, PlatformError
from sdtune.files import write_text
from sdtune.train.saving.checkpoint import list_checkpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from sdtune.train.run import Run
    from sdtune.train.step.gradients import StepResult
    from sdtune.train.update.updating import Update

logger = logging.getLogger(__name__)
_SHOWN = 3
_FEWEST_LOSSES = 10  # before an average says what is usual


def block_of(name: str) -> str:
    """Give the block of a parameter: its path up to the first number, or its first two words."""
    words = name.split(".")
    numbers = [place for place, word in enumerate(words) if word.isdigit()]
    return ".".join(words[: numbers[0] + 1 if numbers else 2])


def block_norms(parameters: Mapping[str, nn.Parameter]) -> dict[str, float]:
    """Compute the gradient's norm of each block that has one, in float64, so that no sum overflows."""
    squares: dict[str, float] = {}
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            norm = float(torch.linalg.vector_norm(parameter.grad, dtype=torch.float64))
            squares[block_of(name)] = squares.get(block_of(name), 0.0) + norm**2
    return {block: math.sqrt(square) for block, square in squares.items()}


def all_finite(parameters: Mapping[str, nn.Parameter]) -> bool:
    """Tell whether every value is a finite number."""
    return bool(torch.stack([parameter.isfinite().all() for parameter in parameters.values()]).all())


def check_weights(parameters: Mapping[str, nn.Parameter], step: int) -> None:
    """Refuse to save weights that are not finite.

    Raises:
        NumericsError: Names blocks.
    """
    if not all_finite(parameters):
        bad = {block_of(name): None for name, parameter in parameters.items() if not parameter.isfinite().all()}
        raise NumericsError(
            f"step {step} left weights that are not finite in {listed(list(bad))}; they are not saved",
            hint="lower train.lr, then start again",
        )


class StepGuard:
    """Looks at each step between its gradients and its update.

    Args:
        run: The run.
        update: Tells whether an overflow would be passed over.
        save: Saves the state after the last step; None: nothing is saved.
    """

    def __init__(self, run: Run, update: Update, save: Callable[[], None] | None) -> None:
        self._run = run
        self._update = update
        self._save = save

    def check(self, step: int, result: StepResult, grad_norm: float, *, average: float, losses: float) -> None:
        """Refuse step `step`, counted from 1, where it is not finite, and name the samples of a loss that jumps.

        A refused step has touched neither parameters nor optimizer nor averages. What is known of it is written into
        the run folder, and the state before it is saved.

        Args:
            step: The step.
            result: Its losses.
            grad_norm: The norm of its gradients, which are not clipped yet.
            average: The running average of the losses before it.
            losses: How many these were, about.

        Raises:
            NumericsError: With step, samples and blocks.
        """
        loss, skipped = float(result.loss), self._update.skipped_in_a_row
        if not math.isfinite(loss):
            raise self._refuse(step, result, f"the loss of step {step} is {loss}")
        if not math.isfinite(grad_norm) and not self._update.tolerates_overflow:
            row = f", after {skipped} steps passed over in a row" if skipped else ""
            raise self._refuse(step, result, f"the gradient norm of step {step} is {grad_norm}{row}")
        watch = self._run.options.watch
        if losses >= _FEWEST_LOSSES and loss > watch.loss_spike * average > 0:
            problem = f"the loss of step {step} is {loss:.3g}, {loss / average:.0f} times the average"
            if watch.stop_on_spike:
                raise self._refuse(step, result, problem, kind="spike")
            logger.warning("%s; trained on %s", problem, listed(result.sample_ids))

    def _refuse(
        self, step: int, result: StepResult, problem: str, kind: Literal["nonfinite", "spike"] = "nonfinite"
    ) -> NumericsError:
        """Write the report, save, and give the error to raise."""
        run = self._run
        norms = block_norms(run.parameters())
        path = _write_report(run, step, result, norms, kind)
        losses = dict(zip(result.sample_ids, result.losses.tolist(), strict=True))
        guilty = [sample for sample, loss in losses.items() if not math.isfinite(loss)]
        blocks = [block for block, norm in norms.items() if not math.isfinite(norm)]
        parts = [problem, f"from {listed(guilty)}" if guilty else f"trained on {listed(list(losses))}"]
        if blocks:
            parts.append(f"gradients are not finite in {listed(blocks)}")
        has_moved = self._update.acts_in_backward and math.isfinite(float(result.loss))
        parts += [_kept(run, step, None if has_moved else self._save), f"details in {path.name}"]
        return NumericsError("; ".join(parts), where=str(run.folder.path), hint=_remedy(run))


def _kept(run: Run, step: int, save: Callable[[], None] | None) -> str:
    """Save the state before the step where it is still there and good, and say which state is kept."""
    if save is not None and all_finite(run.parameters()):
        try:
            save()
        except PlatformError as error:
            logger.warning("the state of step %d could not be saved: %s", step - 1, error)
        else:
            return f"the state of step {step - 1} is saved"
    found = list_checkpoints(run.folder.checkpoints)
    return f"the newest checkpoint is {found[-1].name}" if found else "there is no checkpoint"


def _remedy(run: Run) -> str:
    precision = "" if run.model.source.dtype == torch.float32 else ", or use train.precision=fp32"
    return f"lower train.lr{precision}, or look for what is wrong with these images"


def _write_report(run: Run, step: int, result: StepResult, norms: Mapping[str, float], kind: str) -> Path:
    samples = zip(result.sample_ids, result.timesteps.tolist(), result.losses.tolist(), strict=True)
    facts = {
        "step": step,
        "loss": _number(float(result.loss)),
        "samples": [{"id": name, "timestep": time, "loss": _number(loss)} for name, time, loss in samples],
        "gradient_norms": {block: _number(norm) for block, norm in norms.items()},
    }
    path = run.folder.path / f"{kind}-step-{step}.json"
    write_text(path, json.dumps(facts, indent=1, allow_nan=False) + "\n", overwrite=True)
    return path


def _number(value: float) -> float | str:
    """Give a number as JSON has it: `nan`, `inf` and `-inf` are texts there."""
    return value if math.isfinite(value) else str(value)


def listed(names: Sequence[str]) -> str:
    """Give the first three names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
