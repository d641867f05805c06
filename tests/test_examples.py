"""The example of a third-party plugin keeps its word: what its README and the tutorial show works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import sdtune_bitfit
from sdtune.plugins import Registry

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples/sdtune-bitfit"
CODE = sorted(EXAMPLE.rglob("*.py"))
SHOWN = [EXAMPLE / "pyproject.toml", *CODE]


def test_its_method_is_found() -> None:
    assert "bitfit" in Registry.from_plugins([sdtune_bitfit]).methods()


def test_it_is_under_sixty_lines_of_code_with_its_test() -> None:
    lines = [line for path in CODE for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) < 60


def test_the_tutorial_shows_its_files_and_nothing_else() -> None:
    page = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^`([\w./]+)`:\n\n```(?:python|toml)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    assert shown == {path.relative_to(EXAMPLE).as_posix(): path.read_text(encoding="utf-8") for path in SHOWN}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the Python of a clean environment with the example in it, and sdtune and its dependencies beside."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", site)
    run(sys.executable, "-m", "pip", "install", *options, EXAMPLE)
    (site / "beside.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    return python


def run(*command: str | Path, folder: Path | None = None) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=env, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_installed_it_is_listed_with_its_package(environment: Path, tmp_path: Path) -> None:
    assert re.search(r"bitfit.*sdtune-bitfit", run(environment, "-m", "sdtune", "plugins", folder=tmp_path))
    assert "layers" in run(environment, "-m", "sdtune", "config", "explain", "bitfit", folder=tmp_path)


@pytest.mark.slow
def test_installed_it_trains_and_exports(environment: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from sdtune.testing.images import write_images
    from sdtune.testing.tiny import tiny_sd1

    write_images(tmp_path / "photos", count=2)
    tiny_sd1(tmp_path / "tiny.safetensors")
    options = "--method bitfit --data photos --model tiny.safetensors --output run --steps 2 --resolution 64 --name it"
    run(environment, "-m", "sdtune", "train", *options.split(), folder=tmp_path)
    tensors = load_file(tmp_path / "run/exports/it.safetensors")
    assert tensors["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0.diff_b"].any()


@pytest.mark.slow
def test_installed_it_passes_the_kit(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_bytes((EXAMPLE / "tests/test_bitfit.py").read_bytes())
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n", encoding="utf-8")
    said = run(environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder=tmp_path)
    assert re.search(r"\b\d+ passed", said)
