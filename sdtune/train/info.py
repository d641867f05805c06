"""What an exported file tells about its run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from sdtune.config.schema import CoreOptions
    from sdtune.data.types import ImageRecord, Size
    from sdtune.models.base import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSnapshot:
    """The optimizer at the moment of an export.

    Attributes:
        name: Class of torch or of another package, e.g. `AdamW`.
        state_dict: As its `state_dict()` gives it: `state` by number of the parameter, and `param_groups`.
    """

    name: str
    state_dict: Mapping[str, Any]

    def of(self, groups: Collection[str]) -> dict[str, Any]:
        """Give the state of some groups alone, parameters numbered from 0, as if the others had never been."""
        kept = [group for group in self.state_dict["param_groups"] if group["name"] in groups]
        numbers = {old: new for new, old in enumerate(number for group in kept for number in group["params"])}
        state = self.state_dict["state"]
        return {
            "state": {new: dict(state[old]) for old, new in numbers.items() if old in state},
            "param_groups": [{**group, "params": [numbers[old] for old in group["params"]]} for group in kept],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """Facts of a run at the moment of an export.

    Attributes:
        name: Stem of the file: also webui's alias.
        suffix: What `name` has after the run's own name: `-000002` after an epoch, empty at the end.
        step: Optimizer steps done.
        epoch: Epochs done, counting a started one.
        total_steps: Steps planned.
        total_epochs: Epochs planned.
        batches_per_epoch: Micro-batches in an epoch.
        config: All options.
        family: Family of the base model.
        prediction: `epsilon`, `v_prediction` or `sample`.
        clip_skip: Which hidden state of the text encoder was used.
        zero_terminal_snr: The noise schedule ended in pure noise.
        base_name: Name of the base model, no folder.
        base_digest: SHA-256 of the base model's file, or "" when it is a folder or not known.
        base_legacy_digest: Its hash by the rule of old webuis, 8 digits, or "" likewise.
        images: The data set, regularization left out.
        regularization: The regularization images.
        buckets: Bucket size to number of images times repeats.
        started_at: Unix seconds.
        finished_at: Unix seconds.
        rates: The learning rates that were used, as part and rate, each once; that of most numbers first.
        trigger: Words that call what was learned; empty when not known.
        optimizer: The optimizer; None where a file is made without one.
        picture: The newest preview, for pictures of what was learned; None when there is none.
    """

    name: str
    step: int
    epoch: int
    total_steps: int
    total_epochs: int
    batches_per_epoch: int
    config: CoreOptions
    family: str
    prediction: str
    clip_skip: int
    base_name: str
    base_digest: str
    images: Sequence[ImageRecord]
    buckets: Mapping[Size, int]
    started_at: float
    finished_at: float
    base_legacy_digest: str = ""
    zero_terminal_snr: bool = False
    rates: Sequence[tuple[Part, str]] = ()
    trigger: str = ""
    suffix: str = ""
    regularization: Sequence[ImageRecord] = ()
    picture: Path | None = None
    optimizer: OptimizerSnapshot | None = None
