"""From `model.path` to a model that is ready to load its parts."""

from __future__ import annotations

from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from sdtune.errors import ConfigError, ModelError
from sdtune.models.detect import FAMILY_TITLES, describe
from sdtune.models.hub import find_on_hub, is_id
from sdtune.models.storage import read_shapes
from sdtune.models.weights import WEIGHT_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from sdtune.config.model import ModelOptions
    from sdtune.models.base import DiffusionModel
    from sdtune.specs import FamilySpec

DEMO = "demo"


class Families(Protocol):
    """What is asked of the registry."""

    def families(self) -> Mapping[str, FamilySpec]:
        """Map name to family."""

    def detect_family(self, shapes: Mapping[str, tuple[int, ...]], path: Path) -> str | None:
        """Name the family of a model file by its tensor shapes, or None."""


def open_model(
    options: ModelOptions,
    *,
    dtype: torch.dtype,
    device: torch.device,
    registry: Families,
    trained_dtype: torch.dtype | None = None,
) -> DiffusionModel:
    """Open a model: headers are read and checked, no weights yet.

    Args:
        options: Which, and how it is read.
        dtype: Of frozen parts.
        device: Where parts live.
        registry: Knows the families.
        trained_dtype: Of parts that are trained as a whole; None: float32.

    Raises:
        ModelError: There is no readable model of a family that can be trained.
        ConfigError: `model.family` is not known.
    """
    import torch

    from sdtune.models.base import ModelSource

    path = resolve_path(options.path)
    spec = _family(options.family, path, registry)
    source = ModelSource(
        path=path,
        name=model_name(options.path),
        options=options,
        dtype=dtype,
        device=device,
        trained_dtype=trained_dtype or torch.float32,
    )
    return cast("DiffusionModel", _import(spec.factory)(source))


def resolve_path(path: str) -> Path:
    """Find the model: `demo` is the one inside the package; a model_index.json stands for its folder.

    `owner/name` is looked for on the Hugging Face hub where no such folder is here.

    Raises:
        ModelError: There is nothing of that name.
    """
    if path == DEMO:
        return demo_folder()
    found = Path(path).expanduser()
    if found.name == "model_index.json":
        found = found.parent
    if found.exists():
        return found
    if is_id(path):
        return find_on_hub(path)
    raise ModelError(f"there is no model {path}", where="model.path", hint=f"give a file or folder, or '{DEMO}'")


def demo_folder() -> Path:
    """Find the demo model.

    Raises:
        ModelError: This installation has none.
    """
    folder = Path(str(files("sdtune"))) / "demo" / "model"
    if not (folder / "model_index.json").exists():
        raise ModelError("the demo model is not in this installation", hint="give model.path, or install sdtune again")
    return folder


def model_name(path: str) -> str:
    """Give a model's short name: no folders, no suffix; of a `model_index.json` its folder's."""
    resolved = Path(path)
    if resolved.name == "model_index.json":
        resolved = resolved.absolute().parent
    return resolved.stem if resolved.suffix.lower() in WEIGHT_SUFFIXES else resolved.name


def _family(name: str, path: Path, registry: Families) -> FamilySpec:
    """Find the family by the names and shapes in the file, and refuse a setting that says otherwise."""
    families = registry.families()
    if name not in ("auto", *families):
        raise ConfigError(
            f"model family {name!r} is not known", where="model.family", hint=f"one of: {', '.join(families)}"
        )
    shapes = read_shapes(path)
    found = registry.detect_family(shapes, path)
    if found is None or found not in families:
        what = _title(found) if found else describe(shapes, is_folder=path.is_dir())
        hint = f"give a base model of one of these families: {', '.join(families)}"
        raise ModelError(f"{path.name} holds {what}", where=str(path), hint=hint)
    if name not in ("auto", found):
        raise ModelError(
            f"{path.name} holds {_title(found)}, but model.family is {name}",
            where=str(path),
            hint=f"leave model.family out, or set it to {found}",
        )
    return families[found]


def _title(family: str) -> str:
    return f"{FAMILY_TITLES.get(family, family)} ({family})"


def _import(factory: str) -> Any:
    module, _, name = factory.partition(":")
    return getattr(import_module(module), name)
