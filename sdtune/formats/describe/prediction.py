"""What a model's UNet predicts, and whether its last step is pure noise, by the marks that programs look for."""

from __future__ import annotations

import re
import statistics
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdtune.formats.facts import FileFacts

Prediction = Literal["epsilon", "v_prediction", "sample"]
# ComfyUI's test for SD2: the spread of this bias is larger in models that predict v.
_TELLING = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
_TELLING_WIDTH, _TELLING_SPREAD = 320, 0.09
_YAML_V = re.compile(r"""parameterization:\s*["']?v\b|VScaling""")
_LIMIT_BYTES = 1 << 20


def describe_prediction(facts: FileFacts) -> dict[str, Any]:
    """Give the section `prediction`: the kind, from what it is told, and zero terminal SNR where that is told."""
    evidence = list(_evidence(facts))
    kinds = {kind for kind, _ in evidence}
    kind, reason = evidence[0] if evidence else _default(facts)
    return {
        "kind": kind,
        "reason": reason,
        "is_disputed": len(kinds) > 1,
        "evidence": [{"kind": kind, "reason": reason} for kind, reason in evidence],
        "zero_terminal_snr": _zero_snr(facts),
    }


def _evidence(facts: FileFacts) -> Iterator[tuple[Prediction, str]]:
    """List what tells, the strongest first."""
    if yaml := _sidecar(facts):
        yield "v_prediction" if _YAML_V.search(yaml) else "epsilon", f"{facts.path.stem}.yaml beside it"
    if "v_pred" in facts.tensors:
        yield "v_prediction", "its tensor v_pred"
    scheduler = facts.contents.configs.get("scheduler/scheduler_config.json", {})
    if "prediction_type" in scheduler:
        yield _kind(str(scheduler["prediction_type"])), "scheduler_config.json"
    for key in ("modelspec.predict_key", "modelspec.prediction_type"):
        if key in facts.metadata:
            yield _kind(facts.metadata[key]), f"its metadata {key}"
    tensor = facts.tensors.get(_TELLING)
    if facts.family == "sd2" and tensor is not None and tensor.shape == (_TELLING_WIDTH,):
        values = facts.contents.read_values(_TELLING)
        if values and any(values):
            width = statistics.pstdev(values)
            yield (
                "v_prediction" if width > _TELLING_SPREAD else "epsilon",
                f"the spread {width:.3f} of a bias, ComfyUI's test",
            )


def _default(facts: FileFacts) -> tuple[Prediction | None, str]:
    if facts.family == "sd2":
        return None, "nothing tells; SD2 has models of both kinds"
    return "epsilon", "nothing says otherwise"


def _zero_snr(facts: FileFacts) -> bool | None:
    scheduler = facts.contents.configs.get("scheduler/scheduler_config.json", {})
    if "ztsnr" in facts.tensors or scheduler.get("rescale_betas_zero_snr") is True:
        return True
    stated = facts.metadata.get("ss_zero_terminal_snr")
    return None if stated not in {"True", "False"} else stated == "True"


def _sidecar(facts: FileFacts) -> str:
    path = facts.path.with_suffix(".yaml")
    if facts.contents.form == "folder" or not path.is_file() or path.stat().st_size > _LIMIT_BYTES:
        return ""
    return path.read_text(encoding="utf-8", errors="replace")


def _kind(told: str) -> Prediction:
    if told == "sample":
        return "sample"
    return "v_prediction" if told.startswith("v") else "epsilon"
