"""The list of checks, and the decorator that runs them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sdtune.testing.conformance import declaration, files, training
from sdtune.testing.conformance.subject import FAMILIES, Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import pytest

    from sdtune.testing.conformance.subject import Reload

CHECKS: tuple[Callable[[Subject, Path], None], ...] = (
    declaration.imports_nothing_heavy,
    declaration.describes_its_options,
    declaration.bounds_its_options,
    declaration.freezes_its_options,
    declaration.has_defaults,
    declaration.refuses_other_families,
    training.declares_what_it_trains,
    training.reaches_every_parameter,
    training.starts_as_the_base,
    training.moves_every_parameter,
    training.moves_nothing_else,
    training.repeats_itself,
    training.keeps_its_prediction,
    training.resumes_bit_for_bit,
    training.accumulates_as_a_batch,
    training.checkpoints_gradients,
    training.computes_in_bf16,
    training.swaps_averages,
    files.exports_readable_files,
    files.tells_metadata,
    files.exports_equal_bytes,
    files.reloads_the_prediction,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One promise of a method.

    Attributes:
        name: Such as `resumes_bit_for_bit`.
        run: Checks it in an empty folder; raises AssertionError, or what the method raises.
        known_failure: Why it is known to fail; empty when it is not.
    """

    name: str
    run: Callable[[Path], None]
    known_failure: str = ""

    def __call__(self, folder: Path) -> None:
        """Run it."""
        self.run(folder)


def method_checks(
    plugins: Iterable[object],
    name: str,
    *,
    families: Sequence[str] = ("sd1",),
    options: Sequence[str] = (),
    is_identity_at_start: bool = True,
    tolerance: float = 1e-3,
    known_failures: Mapping[str, str] | None = None,
    reload: Reload | None = None,
) -> pytest.MarkDecorator:
    """Give a test function a method's checks, one by one, as its argument `check`.

    The images' caption is `a photo of a zwx toy`: a method that learns a word takes `zwx`. Trained are 3 steps at
    128 x 64 px on a tiny model with random weights, with `train.lr=1e-2`.

    Args:
        plugins: Plugin objects that bring the method.
        name: The method.
        families: Model families to check it on.
        options: Options as `a.b=c`, on top of the kit's. Dropouts must be off: they differ between batches.
        is_identity_at_start: Before the first step the model answers as without the method, to the last bit.
        tolerance: Relative error of what cannot be equal to the last bit: accumulation, checkpointing, and the
            effect of a file put into a fresh model.
        known_failures: Check name to the reason it fails; it must fail.
        reload: Puts one exported file into a fresh base model; called for each file that a webui gets.

    Raises:
        ValueError: There is no such family here, or no such check.
    """
    import pytest

    checks = list_method_checks(
        plugins,
        name,
        families=families,
        options=options,
        is_identity_at_start=is_identity_at_start,
        tolerance=tolerance,
        known_failures=known_failures,
        reload=reload,
    )
    return pytest.mark.parametrize(
        "check", [pytest.param(check, id=check.name, marks=_marks(check)) for check in checks]
    )


def list_method_checks(
    plugins: Iterable[object],
    name: str,
    *,
    families: Sequence[str] = ("sd1",),
    options: Sequence[str] = (),
    is_identity_at_start: bool = True,
    tolerance: float = 1e-3,
    known_failures: Mapping[str, str] | None = None,
    reload: Reload | None = None,
) -> list[Check]:
    """Give the checks themselves; arguments and errors as of `method_checks`."""
    if unknown := set(families) - set(FAMILIES):
        raise ValueError(f"there is no tiny model of {sorted(unknown)}; there is {sorted(FAMILIES)}")
    known, chosen = dict(known_failures or {}), tuple(plugins)
    checks = []
    for family in families:
        subject = Subject(
            plugins=chosen, name=name, family=family, options=tuple(options), tolerance=tolerance, reload=reload
        )
        for run in CHECKS:
            if not _applies(run, subject, is_identity_at_start=is_identity_at_start):
                continue
            label = run.__name__ if len(families) == 1 else f"{family}-{run.__name__}"
            checks.append(Check(name=label, run=partial(run, subject), known_failure=known.pop(label, "")))
    if known:
        raise ValueError(f"known_failures names no check: {sorted(known)}")
    return checks


def _applies(run: Callable[[Subject, Path], None], subject: Subject, *, is_identity_at_start: bool) -> bool:
    """Leave out what the method does not claim."""
    claims: dict[Callable[[Subject, Path], None], bool] = {
        training.starts_as_the_base: is_identity_at_start,
        declaration.refuses_other_families: subject.spec.families is not None,
        files.reloads_the_prediction: subject.reload is not None,
    }
    return claims.get(run, True)


def _marks(check: Check) -> list[pytest.MarkDecorator]:
    import pytest

    return [pytest.mark.xfail(strict=True, reason=check.known_failure)] if check.known_failure else []
