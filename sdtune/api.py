"""What plugins import, with `sdtune.testing` and nothing else; torch-bound names are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sdtune.config.base import Options
from sdtune.config.model import ModelOptions
from sdtune.config.rates import LearningRate, Stop
from sdtune.config.targets import TargetRule
from sdtune.errors import ConfigError, DataError, ModelError, Problem, Problems, SdtuneError
from sdtune.hookspecs import hookimpl
from sdtune.randomness import derive_generator, derive_seed
from sdtune.specs import FamilySpec, MethodSpec, TaggerSpec

if TYPE_CHECKING:
    from sdtune.adapters import (
        Adapter,
        WeightChange,
        Wrapper,
        attach_adapters,
        detach_adapters,
        match_targets,
        merge_adapters,
    )
    from sdtune.data.types import ImageRecord, Subset
    from sdtune.export.artifact import AnyArtifact, Artifact, BytesArtifact, FolderArtifact, PickledArtifact
    from sdtune.export.pickled import encode_pickled
    from sdtune.export.writer import write_artifact, write_tensors
    from sdtune.formats.card import encode_card
    from sdtune.formats.embedding import Embedding, embedding_tensors, webui_checksum, webui_embedding
    from sdtune.formats.embedding_files import read_embedding
    from sdtune.models.base import Conditioning, DiffusionModel, Part, Posterior, Target
    from sdtune.models.open import open_model
    from sdtune.train.info import RunInfo
    from sdtune.train.method import Method, ParamGroup, StepOutput
    from sdtune.train.run import Run
    from sdtune.train.validation.choice import ValidationReport
    from sdtune.train.watching.observers import Observer, StepReport

_LAZY = {
    "Adapter": "sdtune.adapters",
    "AnyArtifact": "sdtune.export.artifact",
    "Artifact": "sdtune.export.artifact",
    "BytesArtifact": "sdtune.export.artifact",
    "Conditioning": "sdtune.models.base",
    "DiffusionModel": "sdtune.models.base",
    "Embedding": "sdtune.formats.embedding",
    "FolderArtifact": "sdtune.export.artifact",
    "ImageRecord": "sdtune.data.types",
    "Method": "sdtune.train.method",
    "Observer": "sdtune.train.watching.observers",
    "ParamGroup": "sdtune.train.method",
    "Part": "sdtune.models.base",
    "PickledArtifact": "sdtune.export.artifact",
    "Posterior": "sdtune.models.base",
    "Run": "sdtune.train.run",
    "RunInfo": "sdtune.train.info",
    "StepOutput": "sdtune.train.method",
    "StepReport": "sdtune.train.watching.observers",
    "Subset": "sdtune.data.types",
    "Target": "sdtune.models.base",
    "ValidationReport": "sdtune.train.validation.choice",
    "WeightChange": "sdtune.adapters",
    "Wrapper": "sdtune.adapters",
    "attach_adapters": "sdtune.adapters",
    "detach_adapters": "sdtune.adapters",
    "match_targets": "sdtune.adapters",
    "merge_adapters": "sdtune.adapters",
    "embedding_tensors": "sdtune.formats.embedding",
    "encode_card": "sdtune.formats.card",
    "encode_pickled": "sdtune.export.pickled",
    "open_model": "sdtune.models.open",
    "read_embedding": "sdtune.formats.embedding_files",
    "webui_checksum": "sdtune.formats.embedding",
    "webui_embedding": "sdtune.formats.embedding",
    "write_artifact": "sdtune.export.writer",
    "write_tensors": "sdtune.export.writer",
}

__all__ = [
    "Adapter",
    "AnyArtifact",
    "Artifact",
    "BytesArtifact",
    "Conditioning",
    "ConfigError",
    "DataError",
    "DiffusionModel",
    "Embedding",
    "FamilySpec",
    "FolderArtifact",
    "ImageRecord",
    "LearningRate",
    "Method",
    "MethodSpec",
    "ModelError",
    "ModelOptions",
    "Observer",
    "Options",
    "ParamGroup",
    "Part",
    "PickledArtifact",
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
    "ValidationReport",
    "WeightChange",
    "Wrapper",
    "attach_adapters",
    "derive_generator",
    "derive_seed",
    "detach_adapters",
    "embedding_tensors",
    "encode_card",
    "encode_pickled",
    "hookimpl",
    "match_targets",
    "merge_adapters",
    "open_model",
    "read_embedding",
    "webui_checksum",
    "webui_embedding",
    "write_artifact",
    "write_tensors",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
