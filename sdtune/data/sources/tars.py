"""Webdataset tars: unpacked once into the cache, and read as a folder from then on."""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter
from pathlib import PurePosixPath
from tarfile import TarInfo
from typing import TYPE_CHECKING

from sdtune.data.sources.listing import CAPTION_SUFFIXES, IMAGE_SUFFIXES, shorten
from sdtune.errors import ConfigError, DataError, PlatformError, Problems
from sdtune.files import hash_file, sweep_drafts, writing_folder

if TYPE_CHECKING:
    from pathlib import Path
    from tarfile import TarFile

MAX_MEMBER_BYTES = 1 << 30
MAX_MEMBERS = 2_000_000
_USED = frozenset(IMAGE_SUFFIXES) | {*CAPTION_SUFFIXES, ".json", ".jsonl"}


def unpack(tar: Path, cache: Path) -> Path:
    """Unpack images and captions of a tar into the cache, unless they are there; what it holds else stays in it.

    The folder is named by the tar's content. It appears whole or not at all, also when several processes unpack.

    Args:
        tar: An uncompressed tar file.
        cache: The cache folder.

    Returns:
        The folder.

    Raises:
        DataError: It is no tar, or has members that lead out of it, links, or what is too large: all of them together.
        PlatformError: The disk is full, or the cache cannot be written to.
    """
    target = cache / "unpacked" / hash_file(tar)[:32] / tar.stem
    if target.is_dir():
        return target
    try:
        with tarfile.open(tar, "r:") as file:
            members = _check(file, tar)
            _write(file, members, target)
    except tarfile.TarError as error:
        raise DataError(f"{tar} is not a whole tar file: {error}", hint="fetch it again") from None
    return target


def _check(file: TarFile, tar: Path) -> list[TarInfo]:
    """List the files to unpack; refuse a tar in which anything is not as it should be."""
    problems, members, names = Problems(DataError), list[TarInfo](), Counter[PurePosixPath]()
    for number, member in enumerate(file):
        if number == MAX_MEMBERS:
            raise DataError(f"{tar} has more than {MAX_MEMBERS} members", hint="split it")
        with problems.collect():
            path = _safe_path(member, tar)
            names[path] += 1
            if member.isreg() and path.suffix.lower() in _USED:
                members.append(member)
    if twice := [str(name) for name, times in names.items() if times > 1]:
        problems.add(f"{tar} has {shorten(twice)} more than once", hint="pack it anew")
    problems.raise_if_any()
    return members


def _safe_path(member: TarInfo, tar: Path) -> PurePosixPath:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or set("\\\0") & set(member.name):
        raise DataError(f"{tar}: {member.name!r:.80} leads out of it", hint="do not use this file")
    if not (member.isdir() or member.isreg()) or member.issparse():
        raise DataError(f"{tar}: {member.name!r:.80} is neither a file nor a folder", hint="pack the files themselves")
    if member.size > MAX_MEMBER_BYTES:
        raise DataError(f"{tar}: {member.name!r:.80} is larger than {MAX_MEMBER_BYTES >> 30} GiB", hint="leave it out")
    return path


def _write(file: TarFile, members: list[TarInfo], target: Path) -> None:
    if target.parent.is_dir():
        sweep_drafts(target.parent, is_alone=False, depth="here")
    try:
        with writing_folder(target, size=sum(member.size for member in members)) as draft:
            for member in members:
                path = draft / PurePosixPath(member.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                source = file.extractfile(member)
                assert source is not None
                with source, path.open("xb") as copy:
                    shutil.copyfileobj(source, copy)
    except (ConfigError, PlatformError):
        if not target.is_dir():  # else another process was faster, with the same bytes
            raise
