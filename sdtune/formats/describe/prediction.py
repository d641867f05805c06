"""What a model's UNet predicts, and whether its last step is pure noise: decided as `sdtune train` decides it."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from sdtune.config.model import ModelOptions
from sdtune.errors import ModelError
from sdtune.models.architecture import FAMILIES
from sdtune.models.prediction import TELLING_BIAS, decide, gather_claims, guess_from_bias

if TYPE_CHECKING:
    from sdtune.formats.facts import FileFacts
    from sdtune.models.prediction import Claim

_SCHEDULER = "scheduler/scheduler_config.json"
# `TELLING_BIAS` by its name in a single file, in a UNet alone and in a folder.
_LDM_BIAS = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_BIASES = (f"model.diffusion_model.{_LDM_BIAS}", _LDM_BIAS, TELLING_BIAS, f"unet/{TELLING_BIAS}")


def describe_prediction(facts: FileFacts) -> dict[str, Any]:
    """Give the section `prediction`: the kind, who says so, all who say something, and zero terminal SNR.

    The kind is None where training refuses the model; the reason is then what training says.
    """
    claims: tuple[Claim, ...] = ()
    options = ModelOptions(path=str(facts.path))
    family = FAMILIES.get(facts.family or "")
    try:
        claims = gather_claims(
            facts.path,
            names=facts.tensors.keys(),
            metadata=facts.metadata,
            scheduler=facts.contents.configs.get(_SCHEDULER, {}),
        )
        default = family.prediction if family is not None else "epsilon"
        found = decide(options, claims, default=default, guess=lambda: _guess(facts))
        kind, reason, zero_snr = found.prediction, found.source, found.zero_snr
    except ModelError as error:
        kind, reason, zero_snr = None, str(error), False
    spoken = [claim for claim in claims if claim.prediction is not None]
    return {
        "kind": kind,
        "reason": reason,
        "is_disputed": len({claim.prediction for claim in spoken}) > 1,
        "evidence": [{"kind": claim.prediction, "reason": claim.source} for claim in spoken],
        "zero_terminal_snr": zero_snr,
    }


def _guess(facts: FileFacts) -> Claim | None:
    """Ask the weights where the family has models of both kinds."""
    family = FAMILIES.get(facts.family or "")
    name = next((name for name in _BIASES if name in facts.tensors), None)
    if family is None or family.v_px is None or name is None:
        return None
    values = facts.contents.read_values(name)
    return guess_from_bias(statistics.pstdev(values)) if values else None
