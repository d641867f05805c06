"""The example of a third-party plugin keeps its word: what its README shows works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sdtune_ia3
from sdtune.cli.main import run
from sdtune.plugins import Registry

ROOT = Path(__file__).parents[1] / "examples/third_party_plugin"


@pytest.fixture
def registry() -> Registry:
    return Registry.from_plugins([sdtune_ia3])


def test_its_method_is_found(registry: Registry) -> None:
    assert "ia3" in registry.methods()


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, sdtune_ia3; print('torch' in sys.modules)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert result.stdout.strip() == "False"


def test_it_is_short() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("sdtune_ia3/*.py"))
    assert len(code.splitlines()) < 130


@pytest.mark.slow
def test_it_trains_and_exports(registry: Registry, tmp_path: Path) -> None:
    from safetensors import safe_open

    from sdtune.testing.images import write_images
    from sdtune.testing.tiny import tiny_sd1

    images = write_images(tmp_path / "photos", count=2)[0].parent
    model = tiny_sd1(tmp_path / "tiny.safetensors")
    code = run(
        ["train", "--method", "ia3", "--data", str(images), "--model", str(model), "--output", str(tmp_path / "run"),
         "--steps", "2", "--lr", "5e-3", "--resolution", "64", "--name", "mine"],
        registry,
    )  # fmt: skip
    assert code == 0
    with safe_open(tmp_path / "run/exports/mine.safetensors", "pt") as file:
        names = set(file.keys())
        assert any(file.get_tensor(name).any() for name in names if name.endswith(".weight"))
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.weight" in names
