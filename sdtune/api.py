"""What plugins import, with `sdtune.testing` and nothing else; torch-bound names are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sdtune.config.base import Options
from sdtune.config.rates import LearningRate, Stop
from sdtune.config.targets import TargetRule
from sdtune.errors import ConfigError, DataError, ModelError, Problem, Problems, SdtuneError
from sdtune.hookspecs import hookimpl
from sdtune.randomness import derive_generator, derive_seed
from sdtune.specs import FamilySpec, MethodSpec, TaggerSpec

if TYPE_CHECKING:
    from sdtune.adapters import Adapter, attach_adapters, detach_adapters, match_targets, merge_adapters
    from sdtune.data.types import ImageRecord, Subset
    from sdtune.export.artifact import Artifact
    from sdtune.export.writer import write_tensors
    from sdtune.models.base import Conditioning, DiffusionModel, Part, Posterior, Target
    from sdtune.train.info import RunInfo
    from sdtune.train.method import Method, ParamGroup, StepOutput
    from sdtune.train.observers import Observer, StepReport
    from sdtune.train.run import Run

_LAZY = {
    "Adapter": "sdtune.adapters",
    "Artifact": "sdtune.export.artifact",
    "Conditioning": "sdtune.models.base",
    "DiffusionModel": "sdtune.models.base",
    "ImageRecord": "sdtune.data.types",
    "Method": "sdtune.train.method",
    "Observer": "sdtune.train.observers",
    "ParamGroup": "sdtune.train.method",
    "Part": "sdtune.models.base",
    "Posterior": "sdtune.models.base",
    "Run": "sdtune.train.run",
    "RunInfo": "sdtune.train.info",
    "StepOutput": "sdtune.train.method",
    "StepReport": "sdtune.train.observers",
    "Subset": "sdtune.data.types",
    "Target": "sdtune.models.base",
    "attach_adapters": "sdtune.adapters",
    "detach_adapters": "sdtune.adapters",
    "match_targets": "sdtune.adapters",
    "merge_adapters": "sdtune.adapters",
    "write_tensors": "sdtune.export.writer",
}

__all__ = [
    "Adapter",
    "Artifact",
    "Conditioning",
    "ConfigError",
    "DataError",
    "DiffusionModel",
    "FamilySpec",
    "ImageRecord",
    "LearningRate",
    "Method",
    "MethodSpec",
    "ModelError",
    "Observer",
    "Options",
    "ParamGroup",
    "Part",
    "Posterior",
    "Problem",
    "Problems",
    "Run",
    "RunInfo",
    "SdtuneError",
    "StepOutput",
    "StepReport",
    "Stop",
    "Subset",
    "TaggerSpec",
    "Target",
    "TargetRule",
    "attach_adapters",
    "derive_generator",
    "derive_seed",
    "detach_adapters",
    "hookimpl",
    "match_targets",
    "merge_adapters",
    "write_tensors",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
