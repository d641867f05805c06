"""Options that differ from a run's own when it goes on, and which of them may."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sdtune.config.dump import leaves, to_dict, write_flow
from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdtune.config.base import Options

Kind = Literal["free", "place", "length", "number", "fixed"]
"""`free` changes no number of the training; `place` is checked by its content; `number` changes what is trained."""

KINDS: Mapping[str, Kind] = {
    "log.*": "free",
    "preview.*": "free",
    "save.*": "free",
    "output.webui_dir": "free",
    "output.comfyui_dir": "free",
    "output.comment": "free",
    "output.certify": "free",
    "output.consumers": "free",
    "data.cache.*": "free",
    "data.workers": "free",
    "data.prefetch": "free",
    "data.write_schedule": "free",
    "train.dry_step": "free",
    "train.fused_backward": "free",
    "train.gradient_checkpointing": "free",
    "train.threads": "free",  # another number of threads is told from the checkpoint
    "model.path": "place",
    "model.vae": "place",
    "validation.every_*": "free",
    "watch.*": "free",
    "data.path": "place",
    "validation.path": "place",
    "data.subsets.*.path": "place",
    "data.subsets.*.mask_dir": "place",
    "data.captions_json": "place",
    "data.subsets.*.captions_json": "place",
    "data.mask.dir": "place",
    "data.templates": "place",
    "data.subsets.*.templates": "place",
    "regularization.path": "place",
    "train.steps": "length",
    "train.epochs": "length",
    "method": "fixed",
    "model.family": "fixed",
    "output.dir": "fixed",
    "train.optimizer.name": "fixed",
    "train.optimizer.args*": "fixed",
}
"""Patterns of options that are not of kind `number`, the first that matches counts."""
_LONGER, _CHANGE = "--extend", "--accept-changes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An option with another value than the run has.

    Attributes:
        option: Dotted name.
        old: The run's value, as plain data; None also where there is none.
        new: The value asked for.
        kind: What may be done about it.
    """

    option: str
    old: Any
    new: Any
    kind: Kind

    def __str__(self) -> str:
        return f"{self.option} {write_flow(self.old)} -> {write_flow(self.new)}"

    @property
    def needs(self) -> str:
        """The flag that allows it; empty where none is needed or none helps, or only the images tell which."""
        if self.kind == "length" and isinstance(self.old, int) and isinstance(self.new, int):
            return _CHANGE if self.new < self.old else _LONGER
        return _CHANGE if self.kind == "number" else ""


def find_changes(old: Options, new: Options) -> tuple[Change, ...]:
    """List the options that differ, in the order of the schema; paths of the same file do not differ."""
    before, after = _values(old), _values(new)
    return tuple(
        Change(option=name, old=before.get(name), new=after.get(name), kind=kind_of(name))
        for name in {**before, **after}
        if before.get(name) != after.get(name)
        if not (kind_of(name) in ("place", "fixed") and _is_same_place(before.get(name), after.get(name)))
    )


def kind_of(option: str) -> Kind:
    """Tell what may be done about a change of an option; unknown ones change numbers."""
    return next((kind for pattern, kind in KINDS.items() if fnmatchcase(option, pattern)), "number")


def check_changes(changes: Sequence[Change], allowed: Sequence[str]) -> None:
    """Refuse changes that can never be made, or need a flag that was not given.

    Args:
        changes: All of them.
        allowed: Of `--extend` and `--accept-changes`, those given.

    Raises:
        ConfigError: One line with the old and the new value of each.
    """
    fixed = [change for change in changes if change.kind == "fixed"]
    if fixed:
        raise ConfigError(f"a run cannot change {_join(fixed)}", hint="start a new run in another --output")
    refused = [change for change in changes if change.needs and change.needs not in allowed]
    if refused:
        raise ConfigError(f"these options are not the run's own: {_join(refused)}", hint=_remedy(refused))


def describe_changes(changes: Sequence[Change]) -> list[str]:
    """Tell the changes that are made, one line for those without effect on numbers, one for the others."""
    quiet = [change for change in changes if change.kind in ("free", "place")]
    loud = [change for change in changes if change.kind == "number" or change.needs == _CHANGE]
    lines = [f"changed: {_join(quiet)}"] if quiet else []
    if loud:
        lines.append(f"changed: {_join(loud)}; the result is no longer what one run with one set of options gives")
    return lines


def _join(changes: Sequence[Change]) -> str:
    return ", ".join(map(str, changes))


def _remedy(refused: Sequence[Change]) -> str:
    flags = dict.fromkeys(change.needs for change in refused)
    reasons = {
        _LONGER: f"{_LONGER} to train longer",
        _CHANGE: f"{_CHANGE} to go on all the same (the result is then not that of one run)",
    }
    return f"leave them out, or add {' and '.join(reasons[flag] for flag in flags)}"


def _values(options: Options) -> dict[str, Any]:
    """Give each option's plain value; empty lists and sections stand for nothing."""
    return {".".join(path): value for path, value in leaves(to_dict(options)) if value not in ([], {})}


def _is_same_place(first: Any, second: Any) -> bool:
    if not isinstance(first, str) or not isinstance(second, str):
        return False
    return Path(first).expanduser().resolve() == Path(second).expanduser().resolve()
