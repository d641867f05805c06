"""Where webuis look for files."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from sdtune.errors import ConfigError, PlatformError

if TYPE_CHECKING:
    from sdtune.export.artifact import ArtifactKind

UI = Literal["webui", "comfyui"]

# webui is A1111 and Forge alike. Forge does not scan models/LyCORIS, and both take LyCORIS files from models/Lora.
_FOLDERS: dict[UI, dict[ArtifactKind, PurePosixPath]] = {
    "webui": {
        "lora": PurePosixPath("models/Lora"),
        "embedding": PurePosixPath("embeddings"),
        "hypernetwork": PurePosixPath("models/hypernetworks"),
        "checkpoint": PurePosixPath("models/Stable-diffusion"),
    },
    "comfyui": {
        "lora": PurePosixPath("models/loras"),
        "embedding": PurePosixPath("models/embeddings"),
        "hypernetwork": PurePosixPath("models/hypernetworks"),
        "checkpoint": PurePosixPath("models/checkpoints"),
    },
}
_MARKS: dict[UI, str] = {"webui": "webui.py", "comfyui": "comfy"}
_DEPTH = 3  # of models/Lora under the folder of a webui
_NETWORK_SUFFIXES = {".safetensors", ".pt", ".ckpt", ".bin"}


def find_folder(ui: UI, kind: ArtifactKind, root: Path, *, create: bool = False) -> Path:
    """Name the folder of `root` where a UI looks for files of a kind; nothing is made yet.

    `root` may be the UI's own folder, or already the folder of the kind, e.g. `models/Lora`.

    Args:
        ui: What reads the file.
        kind: What the file is.
        root: The UI's folder.
        create: Accept a root that is not there.

    Raises:
        ConfigError: There is no such folder, or it is the other UI's.
        PlatformError: `root` is a file.
    """
    check_root(ui, root, create=create)
    return root / _missing_part(root, _FOLDERS[ui][kind])


def check_root(ui: UI, root: Path, *, create: bool = False) -> None:
    """Refuse a root that is not the UI's folder; see `find_folder`."""
    if root.exists() and not root.is_dir():
        raise PlatformError(f"{root} is a file, not the folder of {ui}")
    if not root.exists() and not create:
        raise ConfigError(f"there is no folder {root}", hint=f"give the folder of {ui}, or --create to make it")
    for other, mark in _MARKS.items():
        if other != ui and (root / mark).exists() and not (root / _MARKS[ui]).exists():
            raise ConfigError(f"{root} looks like a folder of {other}, not of {ui}", hint=f"choose --to {other}")


def tell_webui(root: Path) -> Literal["a1111", "forge"]:
    """Tell whose folder it is by what Forge alone has; see `find_folder` for what `root` may be."""
    folders = [root.expanduser().absolute(), *root.expanduser().absolute().parents]
    return "forge" if any((folder / "modules_forge").is_dir() for folder in folders[:_DEPTH]) else "a1111"


def find_namesakes(ui: UI, kind: ArtifactKind, target: Path) -> list[Path]:
    """List files that a UI cannot tell from `target`, whatever folder below they are in.

    A1111 and Forge know a network by its file's stem alone; ComfyUI shows the path, so there nothing collides.
    """
    if ui == "comfyui" or kind not in ("lora", "embedding"):
        return []
    folders = [target.parent] if kind == "embedding" else [target.parent, target.parent.with_name("LyCORIS")]
    files = (path for folder in folders for path in sorted(folder.rglob("*")) if path != target)
    return [path for path in files if path.stem == target.stem and path.suffix.lower() in _NETWORK_SUFFIXES]


def _missing_part(root: Path, folder: PurePosixPath) -> PurePosixPath:
    for count in range(len(folder.parts), 0, -1):
        if root.absolute().parts[-count:] == folder.parts[:count]:
            return PurePosixPath(*folder.parts[count:])
    return folder
