"""Every bundled method from the command line: it trains, and its file lies where a webui looks for it."""

import pytest

from sdtune.cli.main import run
from sdtune.plugins import Registry

FOLDERS = {
    "lora": "models/Lora",
    "dylora": "models/Lora",
    "lycoris": "models/Lora",
    "dreambooth": "models/Stable-diffusion",
    "ti": "embeddings",
    "hypernet": "models/hypernetworks",
}


@pytest.fixture(scope="module")
def registry():
    import sdtune_dreambooth
    import sdtune_hypernetwork
    import sdtune_lora
    import sdtune_lycoris
    import sdtune_textual_inversion

    plugins = [sdtune_lora, sdtune_dreambooth, sdtune_hypernetwork, sdtune_lycoris, sdtune_textual_inversion]
    return Registry.from_plugins(plugins)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "place"), FOLDERS.items())
def test_a_method_trains_and_delivers(registry, tmp_path, monkeypatch, method, place):
    monkeypatch.setenv("SDTUNE_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "webui" / place
    folder.mkdir(parents=True)
    words = ["train", "--method", method, "--model", "demo", "--data", "demo", "--steps", "2"]
    words += ["--output", str(tmp_path / "run"), "--webui-dir", str(tmp_path / "webui")]
    words += ["output.certify=false", "preview.prompts=[]", "data.resolution=64"]  # see tests/test_families.py
    assert run(words, registry) == 0
    assert any(path.suffix in (".safetensors", ".pt") for path in folder.iterdir())
