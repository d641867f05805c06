"""Write the golden files: `python tests/golden/make.py [NAME ...]`; no test does.

They are written again when a change of numerics is wanted; the commit then says so, and why. `--spread FILE` writes no
golden file but all numbers into one, to compare machines and kernels.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from golden_runs import HERE, list_cases, record, torch_version


def _commit() -> str:
    words = ["git", "-C", str(HERE), "log", "-1", "--format=%s"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def main(words: list[str]) -> None:
    target = Path(words.pop()) if "--spread" in words else None
    names = [word for word in words if word != "--spread"]
    made = {"after_commit": _commit(), "torch": torch_version(), "machine": platform.machine()}
    spread = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in list_cases():
            if names and not any(name in str(case) for name in names):
                continue
            numbers = spread[str(case)] = record(case, Path(folder))
            if target is None:
                case.path.parent.mkdir(exist_ok=True)
                text = json.dumps({"made": made, "numbers": numbers}, indent=1)
                case.path.write_text(f"{text}\n", encoding="utf-8")
            sys.stdout.write(f"{case}: {numbers['losses']}\n")
    if target is not None:
        target.write_text(json.dumps(spread), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
