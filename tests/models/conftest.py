from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from sdtune.config.model import ModelOptions
from sdtune.models import builtin, libraries
from sdtune.models.open import open_model
from sdtune.testing.tiny import tiny_sd1

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from sdtune.models.sd import StableDiffusion1
    from sdtune.specs import FamilySpec


class Families:
    """The core's families, as the registry gives them."""

    def families(self) -> Mapping[str, FamilySpec]:
        return {spec.name: spec for spec in builtin.sdtune_families()}

    def detect_family(self, shapes: Mapping[str, tuple[int, ...]], path: Path) -> str | None:
        return builtin.sdtune_detect_family(shapes, path)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep tests off the user's caches; gives sdtune's cache folder."""
    root = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root / "hub"))
    return root / "sdtune"


@pytest.fixture(scope="session")
def registry() -> Families:
    return Families()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd1(tmp_path_factory.mktemp("folder") / "tiny")


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd1(tmp_path_factory.mktemp("file") / "tiny.safetensors")


@pytest.fixture(scope="session")
def open_sd(registry: Families) -> Callable[..., StableDiffusion1]:
    """Open a model with some parts loaded."""

    def opened(
        path: Path, *parts: str, dtype: torch.dtype = torch.float32, clip_skip: int | None = None
    ) -> StableDiffusion1:
        options = ModelOptions(path=str(path), clip_skip=clip_skip)
        model = open_model(options, dtype=dtype, device=torch.device("cpu"), registry=registry)
        for part in parts:
            model.load(part)
        return model

    return opened


@pytest.fixture(scope="session")
def full_width() -> dict[str, torch.nn.Module]:
    """SD1.5's modules at full width, without memory."""
    text_model, text_config = libraries.text_classes()
    width = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    with torch.device("meta"):
        return {
            "unet": libraries.unet_class()(cross_attention_dim=768),
            "vae": libraries.vae_class()(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
            ),
            "text_encoder": text_model(text_config(**width, num_hidden_layers=12)),
        }
