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
    from collections.abc import Iterator, Sequence

FileState = Literal["new", "same", "differs"]

MODEL_CONFIG = ".yaml"  # beside a checkpoint: from it A1111 and Forge build the model
_BAD_NAME = re.compile(r'[\x00-\x1f/\\:*?"<>|]')


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
        files: Each model file, then what lies beside it.
        usage: What to write into the prompt, or where to choose the file; one line for each model file.
    """

    files: tuple[DeliveredFile, ...]
    usage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A file of a run: its place, and what it is."""

    path: Path
    kind: ArtifactKind

    @property
    def suffix(self) -> str:
        return self.path.suffix


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What a run folder's `run.json` tells about its files."""

    name: str
    trigger: str
    family: str
    files: tuple[_Source, ...]


def plan_delivery(run_dir: Path, *, to: UI, root: Path, name: str | None = None, create: bool = False) -> Delivery:
    """Plan the files of a delivery; nothing is written.

    Args:
        run_dir: A finished run's folder.
        to: What reads the file.
        root: The UI's folder.
        name: Put in the place of the run's name in the names of delivered files; None: keep them.
        create: Make `root` when it is not there.

    Raises:
        ConfigError: Not a finished run, no folder of the UI, a name that cannot be used, or one that is taken.
        ModelError: The run's file cannot be read.
        PlatformError: A file cannot be read.
    """
    facts = _read_facts(run_dir)
    _check_sources(facts)
    contents: dict[Path, Path | bytes] = {}
    usage = []
    sources = [source for source in facts.files if to == "webui" or source.suffix != MODEL_CONFIG]
    for source in sources:
        stem = source.path.stem if name is None or source.path.stem != facts.name else name
        _check_name(stem)
        target = find_folder(to, source.kind, root, create=create) / f"{stem}{source.suffix}"
        if source.suffix == MODEL_CONFIG:
            contents |= {target: source.path}
            continue
        _refuse_namesakes(to, source.kind, target)
        _refuse_foreign_config(to, source, target, sources)
        contents |= {target: source.path, **dict(_sidecars(run_dir, source, target, to=to, facts=facts))}
        usage.append(describe_usage(to, source.kind, f"{stem}{source.suffix}", facts.trigger))
    files = tuple(
        DeliveredFile(target=path, content=content, state=_compare(path, content)) for path, content in contents.items()
    )
    return Delivery(files=files, usage="\n".join(usage))


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


def describe_usage(to: UI, kind: ArtifactKind, file: str, trigger: str) -> str:
    """Tell how a delivered file is used.

    Args:
        to: What reads it.
        kind: What it is.
        file: Its name.
        trigger: Words that call what was learned.
    """
    stem = Path(file).stem
    prompts = {
        ("webui", "lora"): f"in the prompt: <lora:{stem}:1> {trigger}",
        ("webui", "embedding"): f"in the prompt: {stem}",
        ("webui", "hypernetwork"): f"in the prompt: <hypernet:{stem}:1> {trigger}",
        ("comfyui", "lora"): f"in a Load LoRA node: {file}; in the prompt: {trigger}",
        ("comfyui", "embedding"): f"in the prompt: embedding:{stem}",
        ("comfyui", "hypernetwork"): f"in a Hypernetwork Loader node: {file}; in the prompt: {trigger}",
    }
    return prompts.get((to, kind), f"choose {stem} as the model; in the prompt: {trigger}").rstrip(" ;:")


def _read_facts(run_dir: Path) -> _Facts:
    try:
        facts: Any = json.loads((run_dir / "run.json").read_text("utf-8"))
        name, kind = facts["name"], facts.get("kind", "lora")
        texts = [name, facts.get("trigger") or "", facts.get("family") or "", kind]
        found = facts.get("files") or [{"name": f"{name}.safetensors", "kind": kind}]
        pairs = [(file["name"], file["kind"]) for file in found]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{run_dir} is not a run folder: its run.json is missing or broken", hint="give the folder of a run"
        ) from error
    texts += [text for pair in pairs for text in pair]
    kinds = {kind, *(kind for _, kind in pairs)}
    if not all(isinstance(text, str) for text in texts) or not kinds <= set(get_args(ArtifactKind)):
        raise ConfigError(f"{run_dir / 'run.json'} does not name a file that can be exported")
    for text in (name, *(file for file, _ in pairs)):
        _check_name(text)  # a run folder may come from a stranger
    files = tuple(_Source(path=run_dir / "exports" / file, kind=kind) for file, kind in pairs)
    return _Facts(name=name, trigger=texts[1], family=texts[2], files=files)


def _check_sources(facts: _Facts) -> None:
    problems = Problems(ConfigError)
    for source in facts.files:
        if not source.path.is_file():
            others = ", ".join(path.name for path in sorted(source.path.parent.glob("*.*"))) or "none"
            hint = "finish the run with sdtune train --resume"
            problems.add(f"{source.path} is missing; files there: {others}", hint=hint)
    problems.raise_if_any()


def _check_name(name: str) -> None:
    if not name.strip(" .") or _BAD_NAME.search(name):
        raise ConfigError(f"{name!r} cannot be a file's name", hint='leave out / \\ : * ? " < > |')


def _refuse_namesakes(to: UI, kind: ArtifactKind, target: Path) -> None:
    problems = Problems(ConfigError)
    for path in find_namesakes(to, kind, target):
        problems.add(f"{path} has the same name, and {to} would take one for the other", hint="choose another --name")
    problems.raise_if_any()


def _refuse_foreign_config(to: UI, source: _Source, target: Path, sources: Sequence[_Source]) -> None:
    """Refuse to put a checkpoint where another's configuration lies, by which A1111 would build this one."""
    config, own = target.with_suffix(MODEL_CONFIG), source.path.with_suffix(MODEL_CONFIG)
    has_own = own in (other.path for other in sources)
    if to == "webui" and source.kind == "checkpoint" and config.exists() and not has_own:
        raise ConfigError(
            f"{config} lies there, and {to} would take the model for what it says",
            hint="choose another --name, or remove it",
        )


def _sidecars(
    run_dir: Path, source: _Source, target: Path, *, to: UI, facts: _Facts
) -> Iterator[tuple[Path, Path | bytes]]:
    metadata = read_metadata(source.path) if source.suffix == ".safetensors" else {}
    if to == "webui" and source.kind == "lora":
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
