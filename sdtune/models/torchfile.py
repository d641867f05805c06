"""Files of `torch.save` read as data, in a process of its own with little memory and time: where each tensor lies.

Both of torch's formats are read: the archive with stored members, and the older row of five pickles. Neither torch nor
a pickle module takes part; see `opcodes`.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

from sdtune.errors import ModelError
from sdtune.models.opcodes import LeftOut, Named, Storage, StoredTensor, read_pickle
from sdtune.models.tensors import WIDTHS

ARCHIVE = b"PK\x03\x04"
_ROW = [0x1950A86A20F9469CFC6C, 1001]  # the first two pickles of the older format: magic number and version
_PICKLE_LIMIT_BYTES = 64 << 20
_OUTPUT_LIMIT_CHARS = 64 << 20
_MEMORY_LIMIT_BYTES = 2 << 30
_TIME_LIMIT_S = 20
_VALUE_LIMIT, _DEPTH_LIMIT, _DIMENSION_LIMIT = 2_000_000, 60, 8
_LOCAL_BYTES, _LENGTHS = 30, struct.Struct("<2H")
# What torch.save writes; `.data/serialization_id` came with 2.1, the other two with a dot with 2.9.
_MEMBER = re.compile(
    r"data\.pkl|data/\w+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id"
)
_AGAIN = "download it again"

Places = dict[str, tuple[int, int]]


def main() -> None:
    """Print the content of the file that the command line names, as JSON: `{"content": ...}` or `{"error": ...}`."""
    _limit_this_process()
    try:
        text = json.dumps({"content": read_content(Path(sys.argv[-1]))})
        if len(text) > _OUTPUT_LIMIT_CHARS:
            raise ModelError("its pickle unfolds to more than any model holds")
    except ModelError as error:
        problem = error.problems[0]
        text = json.dumps({"error": problem.message, "hint": problem.hint})
    except OSError as error:
        text = json.dumps({"error": f"it cannot be read: {error.strerror or error}", "hint": ""})
    sys.stdout.write(text)


def _limit_this_process() -> None:
    """Take memory, time and the right to write files from this process, where the system knows such limits."""
    try:
        import resource
    except ImportError:  # Windows: the time-out of the parent is left
        return
    limits = {
        resource.RLIMIT_AS: _MEMORY_LIMIT_BYTES,
        resource.RLIMIT_CPU: _TIME_LIMIT_S,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        try:
            resource.setrlimit(kind, (limit, limit))
        except (ValueError, OSError):  # macOS takes no limit of address space
            continue


def read_content(path: Path) -> Any:
    """Read what a file holds as JSON can say it: scalars as they are, everything else as a list, its kind first.

    A tensor is `["tensor", dtype, shape, start, end, strides]`: a range of bytes of the file, and strides in elements.

    Raises:
        ModelError: The file is damaged, no file of `torch.save`, larger inside than outside, or holds code.
    """
    with path.open("rb") as file:
        is_archive = file.read(len(ARCHIVE)) == ARCHIVE
        file.seek(0)
        content, places = (_read_archive if is_archive else _read_row)(file, path.stat().st_size)
    return _Encoder(places).encode(content)


def _read_archive(file: IO[bytes], size: int) -> tuple[Any, Places]:
    """Read the format of torch 1.6 and later."""
    members = _members(file, size)
    if "data.pkl" not in members:
        raise ModelError("it is a zip archive, but not one of torch.save")
    start, end = members["data.pkl"]
    if end - start > _PICKLE_LIMIT_BYTES:
        raise ModelError(f"its pickle has {end - start:,} bytes, more than any model's")
    if "byteorder" in members and _range(file, *members["byteorder"]) != b"little":
        raise ModelError("its numbers are big-endian, which is not read")
    places = {name.removeprefix("data/"): place for name, place in members.items() if name.startswith("data/")}
    return read_pickle(io.BytesIO(_range(file, start, end))), places


def _members(file: IO[bytes], size: int) -> Places:
    """Check the members of an archive, and map their names, without the first folder, to ranges of bytes."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            end = archive.start_dir
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError) as error:
        raise ModelError("it is cut short or damaged", hint=_AGAIN) from error
    places: Places = {}
    folders = {info.filename.partition("/")[0] for info in infos}
    for info, limit in zip(infos, [*(info.header_offset for info in infos[1:]), end], strict=True):
        name = info.filename.partition("/")[2]
        if len(folders) != 1 or not next(iter(folders)).strip(".") or not _MEMBER.fullmatch(name) or name in places:
            raise ModelError(f"its archive holds {info.filename[:80]!r}, which torch.save does not write")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise ModelError(f"{info.filename[:80]!r} in its archive is packed, which torch.save does not do")
        start = _data_start(file, info)
        if start + info.file_size > min(limit, size):
            raise ModelError("members of its archive overlap, or end behind its end", hint=_AGAIN)
        places[name] = (start, start + info.file_size)
    return places


def _data_start(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Find the first byte of a member: only the header before it tells how long that header is."""
    header = _range(file, info.header_offset, info.header_offset + _LOCAL_BYTES)
    if len(header) < _LOCAL_BYTES:
        raise ModelError("it is cut short", hint=_AGAIN)
    name_length, extra_length = _LENGTHS.unpack(header[26:])
    name = file.read(name_length)
    if header[:4] != ARCHIVE or name != info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437"):
        raise ModelError("the two directories of its archive contradict each other", hint=_AGAIN)
    start: int = info.header_offset + _LOCAL_BYTES + name_length + extra_length
    return start


def _range(file: IO[bytes], start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _read_row(file: IO[bytes], size: int) -> tuple[Any, Places]:
    """Read the older format: magic number, protocol, system, content, keys of storages; then these one by one."""
    pickles = _Budget(file)
    if [read_pickle(pickles), read_pickle(pickles)] != _ROW:
        raise ModelError("it is a pickle, but not one of torch.save")
    system, content, keys = (read_pickle(pickles) for _ in range(3))
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ModelError("its numbers are big-endian, which is not read")
    storages = {tensor.storage.key: tensor.storage for tensor in _tensors(content)}
    places: Places = {}
    start = file.tell()
    for key in keys if isinstance(keys, list) else []:
        header = file.read(8)
        if len(header) < 8 or key not in storages or int.from_bytes(header, "little") != storages[key].count:
            raise ModelError("it is cut short or damaged", hint=_AGAIN)
        end = start + 8 + storages[key].count * WIDTHS[storages[key].dtype]
        if end > size:
            raise ModelError("it is cut short", hint=_AGAIN)
        places[key] = (start + 8, end)
        file.seek(start := end)
    return content, places


class _Budget:
    """A file that gives a bounded number of bytes to pickles: a string in one may claim to be as long as the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = _PICKLE_LIMIT_BYTES

    def read(self, size: int) -> bytes:
        return self._spend(self._file.read(min(size, self._left)))

    def readline(self) -> bytes:
        return self._spend(self._file.readline(self._left))

    def _spend(self, data: bytes) -> bytes:
        self._left -= len(data)
        return data


def _tensors(content: Any) -> list[StoredTensor]:
    """List the tensors in nested content, each container looked into once."""
    found, seen, left = [], set(), [content]
    while left:
        value = left.pop()
        if isinstance(value, StoredTensor):
            found.append(value)
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            left.extend(value.values() if isinstance(value, dict) else value)
    return found


class _Encoder:
    """Nested content as JSON; containers that hold each other over and over end at a limit."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._left = _VALUE_LIMIT

    def encode(self, value: Any, depth: int = 0) -> Any:
        """Give a value as JSON says it; see `read_content`."""
        self._left -= 1
        if self._left < 0 or depth > _DEPTH_LIMIT:
            raise ModelError("its pickle unfolds to more than any model holds")
        match value:
            case None | bool() | int() | float() | str():
                return value
            case dict():
                pairs = [[self.encode(key, depth + 1), self.encode(item, depth + 1)] for key, item in value.items()]
                return ["ordered" if isinstance(value, OrderedDict) else "dict", pairs]
            case list() | tuple() | set():
                return [type(value).__name__, [self.encode(item, depth + 1) for item in value]]
            case bytes() | bytearray():
                return ["bytes", value.hex()]
            case StoredTensor():
                return self._tensor(value)
            case LeftOut(name) | Named(name):
                return ["left out", name]
            case Storage():
                return ["left out", "torch.Storage"]
        raise ModelError(f"it holds a {type(value).__name__}, which is not read")

    def _tensor(self, tensor: StoredTensor) -> list[Any]:
        if tensor.storage.key not in self._places:
            raise ModelError("it lacks the numbers of a tensor", hint=_AGAIN)
        start, end = self._places[tensor.storage.key]
        width = WIDTHS[tensor.dtype]
        count = math.prod(tensor.shape)
        span = sum((side - 1) * step for side, step in zip(tensor.shape, tensor.strides, strict=True)) + 1
        span = span if count else 0
        if (tensor.offset + span) * width > end - start or tensor.storage.count * WIDTHS[
            tensor.storage.dtype
        ] > end - start:
            raise ModelError("a tensor in it is larger than its numbers", hint=_AGAIN)
        if count > span or len(tensor.shape) > _DIMENSION_LIMIT:
            raise ModelError("a tensor in it repeats its own numbers, or has more sides than any model's")
        start += tensor.offset * width
        strides = None if _is_row_major(tensor) else list(tensor.strides)
        return ["tensor", tensor.dtype, list(tensor.shape), start, start + span * width, strides]


def _is_row_major(tensor: StoredTensor) -> bool:
    step = 1
    for side, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if side != 1 and stride != step:
            return False
        step *= side
    return True
