import json
import os
from pathlib import Path

import pytest
import torch

from sdtune.config.schema import CoreOptions
from sdtune.data.types import ImageRecord, Size, Subset
from sdtune.export.artifact import Artifact
from sdtune.export.writer import write_artifact
from sdtune.train.info import RunInfo

SUBSET = Subset(
    name="10_dog", path=Path("/home/alice/10_dog"), repeats=10, class_text="dog", weight=1.0, caption_source="txt"
)


def make_image(name: str, caption: str) -> ImageRecord:
    path = Path("/home/alice/10_dog") / name
    return ImageRecord(
        path=path, name=f"10_dog/{name}", size=Size(512, 384), digest="0", caption=caption, subset=SUBSET
    )


@pytest.fixture
def info() -> RunInfo:
    config = CoreOptions.model_validate(
        {
            "model": {"path": "/home/alice/models/base.safetensors", "tokenizer": "/home/alice/clip"},
            "data": {"path": "/home/alice/10_dog", "resolution": "512x384", "cache": {"dir": "/home/alice/cache"}},
            "train": {"steps": 200, "seed": 7},
            "output": {"dir": "/home/alice/runs"},
        }
    )
    return RunInfo(
        name="dog",
        step=200,
        epoch=4,
        total_steps=200,
        total_epochs=4,
        batches_per_epoch=50,
        config=config,
        family="sd1",
        prediction="epsilon",
        clip_skip=1,
        base_name="base",
        base_digest="ab" * 32,
        base_legacy_digest="cd" * 4,
        images=(make_image("1.png", "zwx dog, Grass"), make_image("2.png", "zwx dog, snow, ")),
        buckets={Size(576, 384): 10, Size(512, 384): 10},
        started_at=1_700_000_000.0,
        finished_at=1_700_000_100.5,
        trigger="zwx dog",
    )


@pytest.fixture
def artifact() -> Artifact:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "lora_unet_b.lora_up.weight": torch.randn(8, 4, 1, 1, generator=generator),
        "lora_unet_b.lora_down.weight": torch.randn(3, 8, generator=generator).T,
        "lora_unet_b.alpha": torch.tensor(11.31),
        "lora_unet_a.lora_down.weight": torch.randn(400, generator=generator),
    }
    return Artifact(
        kind="lora",
        stem="dog",
        tensors=tensors,
        metadata={"ss_network_module": "networks.lora", "ss_network_dim": "4"},
        keep_dtype=(".alpha",),
        architecture_suffix="/lora",
    )


@pytest.fixture
def run_dir(tmp_path, artifact, info) -> Path:
    folder = tmp_path / "runs" / "dog"
    write_artifact(artifact, info, folder / "exports", dtype="fp16")
    facts = {"name": "dog", "trigger": "zwx dog", "family": "sd1", "kind": "lora", "more": 1}
    (folder / "run.json").write_text(json.dumps(facts))
    for second, name in enumerate(["step-00000200-00.png", "step-00000000-00.png"]):
        path = folder / "previews" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
        os.utime(path, (1_000 - second, 1_000 - second))
    return folder


@pytest.fixture
def webui(tmp_path) -> Path:
    root = tmp_path / "webui"
    (root / "models" / "Lora").mkdir(parents=True)
    (root / "webui.py").touch()
    return root
