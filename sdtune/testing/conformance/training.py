"""Checks of how a method trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sdtune.errors import StoppedError
from sdtune.testing.conformance.compare import (
    distance,
    expect,
    expect_like_metrics,
    expect_near,
    expect_none,
    expect_same,
)
from sdtune.testing.conformance.files import exported_tensors
from sdtune.testing.conformance.subject import STEPS, answer, disturb, predict, read_metrics, train_in, trained
from sdtune.testing.runner import resume_training, train
from sdtune.train.saving.checkpoint import list_checkpoints, load_checkpoint
from sdtune.train.saving.folder import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from sdtune.testing.conformance.subject import Subject

BF16_TOLERANCE = 0.05  # bf16 has 8 bits: 0.4 % an operation, some hundred in a row
EMA_DECAY = 0.5
SUMS = ("loss", "grad_norm")


def declares_what_it_trains(subject: Subject, folder: Path) -> None:
    """Compare what requires a gradient with what is declared."""
    run = subject.assemble(folder)
    named = [(name, p) for group in run.groups for name, p in group.params.items()]
    declared = {id(parameter) for _, parameter in named}
    expect(bool(named), "nothing is declared")
    expect(len({name for name, _ in named}) == len(declared) == len(named), "a name or a parameter is declared twice")
    expect_none((name for name, p in named if not p.requires_grad), "declared, but require no gradient")
    expect_none((name for name, p in named if p.dtype != torch.float32), "declared, but not float32")
    strangers = (name for name, p in run.model.named_parameters() if p.requires_grad and id(p) not in declared)
    expect_none(strangers, "require a gradient, but are in no group")


def reaches_every_parameter(subject: Subject, folder: Path) -> None:
    """Follow the gradient of a prediction back to each declared parameter."""
    run = subject.assemble(folder)
    torch.autograd.backward(answer(run.model).square().sum())
    expect_none((name for name, p in run.parameters().items() if p.grad is None), "get no gradient")


def starts_as_the_base(subject: Subject, folder: Path) -> None:
    """Compare the answer with the method attached, before any step, with that of the base model."""
    run = subject.assemble(folder)
    # torch chooses kernels by what requires a gradient, and another kernel gives other last digits
    found, base = predict(run.model.requires_grad_(False)), predict(subject.open_base(folder))
    expect(torch.equal(found, base), f"the first answer is off by {distance(found, base):.2g} of the base model's")


def moves_every_parameter(subject: Subject, folder: Path) -> None:
    """Look for parameters that training left alone."""
    done = trained(subject)
    after = done.checkpoint().parameters
    still = (name for name, value in done.initial.items() if torch.equal(value, after[name]))
    expect_none(still, f"did not change in {STEPS} steps")


def moves_nothing_else(subject: Subject, folder: Path) -> None:
    """Look for tensors of the model that changed without being declared."""
    expect_none(trained(subject).touched, "changed, but are in no group")


def repeats_itself(subject: Subject, folder: Path) -> None:
    """Train twice with one seed, the process's generators in different states."""
    first, second = trained(subject), train_in(subject, folder / "run")
    expect_same(first.initial, second.initial, "start differently with one seed; use derive_generator(seed, ...)")
    expect(first.metrics == second.metrics, "losses differ with one seed")
    expect_same(first.checkpoint().parameters, second.checkpoint().parameters, "end differently with one seed")


def keeps_its_prediction(subject: Subject, folder: Path) -> None:
    """Load a checkpoint into a fresh run."""
    done, fresh = trained(subject), subject.assemble(folder)
    fresh.load_parameters(done.checkpoint().parameters)
    found, wanted = predict(fresh.model), predict(done.run.model)
    expect(torch.equal(found, wanted), f"a loaded checkpoint answers off by {distance(found, wanted):.2g}")


def resumes_bit_for_bit(subject: Subject, folder: Path) -> None:
    """Stop after the first step, go on, and compare with the run that was never stopped."""
    output = folder / "run"
    try:
        train(subject.plugins, *subject.overrides(output), stop_after=1)
    except StoppedError:
        disturb()
    resume_training(subject.plugins, output)
    straight = trained(subject)
    stopped = RunFolder(output)
    latest = list_checkpoints(stopped.checkpoints)[-1]
    expect(read_metrics(stopped) == straight.metrics, "losses differ after resuming; what is not declared is lost")
    found = load_checkpoint(latest).parameters
    expect_same(found, straight.checkpoint().parameters, "differ after resuming")


def accumulates_as_a_batch(subject: Subject, folder: Path) -> None:
    """Compare two batches of one image with one batch of two."""
    two = trained(subject, "train.steps=2", "train.batch_size=2")
    ones = trained(subject, "train.steps=2", "train.gradient_accumulation=2")
    expect_like_metrics(
        ones.metrics, two.metrics, SUMS, subject.tolerance, "accumulating 2 x 1 differs from a batch of 2"
    )


def checkpoints_gradients(subject: Subject, folder: Path) -> None:
    """Compare a run with gradient checkpointing with one without."""
    found = trained(subject, "train.steps=2", "train.gradient_checkpointing=true").metrics
    wanted = trained(subject).metrics[:2]
    expect_like_metrics(found, wanted, SUMS, subject.tolerance, "gradient checkpointing changes the training")


def computes_in_bf16(subject: Subject, folder: Path) -> None:
    """Compare losses and gradients in bf16 with those in fp32."""
    found = trained(subject, "train.steps=2", "train.precision=bf16").metrics
    wanted = trained(subject).metrics[:2]
    expect_like_metrics(found[:1], wanted[:1], SUMS, BF16_TOLERANCE, "bf16 is far from fp32")
    # the first update divides by the size of gradients, small ones too: from then on gradients are of other weights
    expect_like_metrics(found[1:], wanted[1:], ("loss",), BF16_TOLERANCE, "bf16 is far from fp32")


def swaps_averages(subject: Subject, folder: Path) -> None:
    """Compute the running average by hand, and find it in the file, and the last step's weights in the model."""
    done = trained(subject, f"train.ema.decay={EMA_DECAY}")
    average = dict(done.initial)
    for step in range(1, STEPS + 1):
        live = done.checkpoint(step).parameters
        average = {name: EMA_DECAY * average[name] + (1 - EMA_DECAY) * live[name] for name in average}
    expect_near(done.checkpoint().ema, average, 1e-5, "the checkpoint's average is not the average of the steps")
    own = {name: parameter.detach() for name, parameter in done.run.parameters().items()}
    expect_same(own, live, "the last step's weights are not put back")
    fresh = subject.assemble(folder)
    fresh.load_parameters(done.checkpoint().ema)
    fresh.export(STEPS)
    expect_same(exported_tensors(done.run), exported_tensors(fresh), "the file does not hold the average")
