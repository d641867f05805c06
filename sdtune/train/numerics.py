"""A step that must not be taken: told with names, written down, and the last good state kept."""

from __future__ import annotations

import json
import logging
import math
from typing import TYPE_CHECKING, Literal

import torch

from sdtune.errors import NumericsError, PlatformError
from sdtune.files import write_text
from sdtune.train.checkpoint import list_checkpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import nn

    from sdtune.train.gradients import StepResult
    from sdtune.train.run import Run

logger = logging.getLogger(__name__)
_SHOWN = 3


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
            f"step {step} left weights that are not finite in {_listed(list(bad))}; they are not saved",
            hint="lower train.lr, then start again",
        )


def refuse_step(
    run: Run,
    step: int,
    result: StepResult,
    problem: str,
    *,
    save: Callable[[], None],
    kind: Literal["nonfinite", "spike"] = "nonfinite",
) -> NumericsError:
    """Write down what is known of step `step`, counted from 1, save the state before it, and give the error to raise.

    Nothing of the step may have touched parameters, optimizer or averages; its gradients are not clipped yet.

    Args:
        run: The run.
        step: The step that is refused.
        result: Its losses.
        problem: What is wrong with it, e.g. `the loss of step 5 is nan`.
        save: Saves the state after the step before.
        kind: First word of the report's name.
    """
    norms = block_norms(run.parameters())
    path = _write_report(run, step, result, norms, kind)
    losses = dict(zip(result.sample_ids, result.losses.tolist(), strict=True))
    guilty = [sample for sample, loss in losses.items() if not math.isfinite(loss)]
    blocks = [block for block, norm in norms.items() if not math.isfinite(norm)]
    parts = [problem, f"from {_listed(guilty)}" if guilty else f"trained on {_listed(list(losses))}"]
    if blocks:
        parts.append(f"gradients are not finite in {_listed(blocks)}")
    parts += [_kept(run, step, save), f"details in {path.name}"]
    return NumericsError("; ".join(parts), where=str(run.folder.path), hint=_remedy(run))


def _kept(run: Run, step: int, save: Callable[[], None]) -> str:
    """Save the state before the step where it is good, and say which state is kept."""
    if all_finite(run.parameters()):
        try:
            save()
        except PlatformError as error:
            logger.warning("the state of step %d could not be saved: %s", step - 1, error)
        else:
            return f"the state of step {step - 1} is saved"
    found = list_checkpoints(run.folder.checkpoints)
    return f"the newest checkpoint is {found[-1].name}" if found else "there is no checkpoint"


def _remedy(run: Run) -> str:
    precision = "" if run.options.train.precision == "fp32" else ", or train.precision=fp32"
    return f"lower train.lr{precision}; look at the images it names"


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


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
