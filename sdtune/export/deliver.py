"""From a run folder into the folders of a webui."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from sdtune.errors import ConfigError, PlatformError, Problems
from sdtune.export.artifact import ArtifactKind
from sdtune.export.container import read_metadata
from sdtune.export.folders import UI, find_folder, find_namesakes
from sdtune.export.sidecar import encode_user_metadata, newest_picture
from sdtune.files import copy_file, hash_file, write_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

FileState = Literal["new", "same", "differs"]

_BAD_NAME = re.compile(r'[\x00-\x1f/\\:*?"<>|]')
_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredFile:
    """One file of a delivery.

    Attributes:
        target: Where it goes.
        content: Where it comes from, or its bytes.
        state: What is at the target: nothing, the same bytes, or others.
    """

    target: Path
    content: Path | bytes
    state: FileState


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What a delivery will write, and how it is then used.

    Attributes:
        files: The model file first, then what lies beside it.
        usage: What to write into the prompt, or where to choose the file.
    """

    files: tuple[DeliveredFile, ...]
    usage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What a run folder's `run.json` tells about its file."""

    name: str
    trigger: str
    family: str
    kind: ArtifactKind


def plan_delivery(run_dir: Path, *, to: UI, root: Path, name: str | None = None, create: bool = False) -> Delivery:
    """Plan the files of a delivery; nothing is written.

    Args:
        run_dir: A finished run's folder.
        to: What reads the file.
        root: The UI's folder.
        name: Stem of the delivered file; None: the run's name.
        create: Make `root` when it is not there.

    Raises:
        ConfigError: Not a finished run, no folder of the UI, a name that cannot be used, or one that is taken.
        ModelError: The run's file cannot be read.
        PlatformError: A file cannot be read.
    """
    facts = _read_facts(run_dir)
    source = _find_source(run_dir, facts.name)
    stem = facts.name if name is None else name
    _check_name(stem)
    target = find_folder(to, facts.kind, root, create=create) / f"{stem}{_SUFFIX}"
    _refuse_namesakes(to, facts.kind, target)
    contents = {target: source, **dict(_sidecars(run_dir, source, target, to=to, facts=facts))}
    files = tuple(
        DeliveredFile(target=path, content=content, state=_compare(path, content)) for path, content in contents.items()
    )
    return Delivery(files=files, usage=describe_usage(to, facts.kind, stem, facts.trigger))


def deliver(
    run_dir: Path, *, to: UI, root: Path, overwrite: bool = False, name: str | None = None, create: bool = False
) -> list[Path]:
    """Copy a run's file, its card and its picture to where a UI looks for them; files that are the same stay.

    Returns:
        All files of the delivery, the model file first.

    Raises:
        ConfigError: As `plan_delivery`, or a file with other bytes is there and may not be replaced.
        ModelError: The run's file cannot be read.
        PlatformError: A file cannot be read or written, or the copy is not what was copied.
    """
    delivery = plan_delivery(run_dir, to=to, root=root, name=name, create=create)
    carry_out(delivery, overwrite=overwrite)
    return [file.target for file in delivery.files]


def carry_out(delivery: Delivery, *, overwrite: bool = False) -> None:
    """Write the files of a delivery that are not there yet.

    Raises:
        ConfigError: Files with other bytes are there, and may not be replaced.
        PlatformError: A file cannot be written, or the copy is not what was copied.
    """
    problems = Problems(ConfigError)
    for file in delivery.files:
        if file.state == "differs" and not overwrite:
            problems.add(f"{file.target} exists", hint="--overwrite replaces it, --name chooses another name")
    problems.raise_if_any()
    for file in delivery.files:
        if file.state != "same":
            _write(file, overwrite=overwrite)


def describe_usage(to: UI, kind: ArtifactKind, stem: str, trigger: str) -> str:
    """Tell how a delivered file is used."""
    prompts = {
        ("webui", "lora"): f"in the prompt: <lora:{stem}:1> {trigger}",
        ("webui", "embedding"): f"in the prompt: {stem}",
        ("webui", "hypernetwork"): f"in the prompt: <hypernet:{stem}:1> {trigger}",
        ("comfyui", "lora"): f"in a Load LoRA node: {stem}{_SUFFIX}; in the prompt: {trigger}",
        ("comfyui", "embedding"): f"in the prompt: embedding:{stem}",
    }
    return prompts.get((to, kind), f"choose {stem} as the model; in the prompt: {trigger}").rstrip(" ;:")


def _read_facts(run_dir: Path) -> _Facts:
    try:
        facts: Any = json.loads((run_dir / "run.json").read_text("utf-8"))
        name, kind = facts["name"], facts.get("kind", "lora")
        texts = [name, facts.get("trigger") or "", facts.get("family") or "", kind]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{run_dir} is not a run folder: its run.json is missing or broken", hint="give the folder of a run"
        ) from error
    if not all(isinstance(text, str) for text in texts) or kind not in get_args(ArtifactKind):
        raise ConfigError(f"{run_dir / 'run.json'} does not name a file that can be exported")
    _check_name(name)  # a run folder may come from a stranger
    return _Facts(name=name, trigger=texts[1], family=texts[2], kind=kind)


def _find_source(run_dir: Path, name: str) -> Path:
    source = run_dir / "exports" / f"{name}{_SUFFIX}"
    if source.is_file():
        return source
    others = ", ".join(path.name for path in sorted(source.parent.glob(f"*{_SUFFIX}"))) or "none"
    raise ConfigError(f"{source} is missing; files there: {others}", hint="finish the run with sdtune train --resume")


def _check_name(name: str) -> None:
    if not name.strip(" .") or _BAD_NAME.search(name):
        raise ConfigError(f"{name!r} cannot be a file's name", hint='leave out / \\ : * ? " < > |')


def _refuse_namesakes(to: UI, kind: ArtifactKind, target: Path) -> None:
    problems = Problems(ConfigError)
    for path in find_namesakes(to, kind, target):
        problems.add(f"{path} has the same name, and {to} would take one for the other", hint="choose another --name")
    problems.raise_if_any()


def _sidecars(
    run_dir: Path, source: Path, target: Path, *, to: UI, facts: _Facts
) -> Iterator[tuple[Path, Path | bytes]]:
    metadata = read_metadata(source)
    if to == "webui" and facts.kind == "lora":
        card = encode_user_metadata(metadata, family=facts.family, trigger=facts.trigger)
        yield target.with_name(f"{target.stem}.json"), card
    if picture := newest_picture(run_dir / "previews"):
        yield target.with_name(f"{target.stem}.preview.png"), picture


def _compare(path: Path, content: Path | bytes) -> FileState:
    if not path.exists():
        return "new"
    if isinstance(content, Path):
        return "same" if hash_file(path) == hash_file(content) else "differs"
    return "same" if path.read_bytes() == content else "differs"


def _write(file: DeliveredFile, *, overwrite: bool) -> None:
    if isinstance(file.content, bytes):
        write_bytes(file.target, file.content, overwrite=overwrite)
        return
    copy_file(file.content, file.target, overwrite=overwrite)
    if hash_file(file.target) != hash_file(file.content):
        raise PlatformError(f"{file.target} is not the same as {file.content} after copying", hint="check the disk")
