import pytest

from sdtune.errors import ConfigError, PlatformError
from sdtune.export.folders import find_folder, find_namesakes, tell_webui

WEBUI = {
    "lora": "models/Lora",
    "embedding": "embeddings",
    "hypernetwork": "models/hypernetworks",
    "checkpoint": "models/Stable-diffusion",
}
COMFYUI = {
    "lora": "models/loras",
    "embedding": "models/embeddings",
    "hypernetwork": "models/hypernetworks",
    "checkpoint": "models/checkpoints",
}
LAYOUT = [("webui", *item) for item in WEBUI.items()] + [("comfyui", *item) for item in COMFYUI.items()]


@pytest.mark.parametrize(("ui", "kind", "folder"), LAYOUT)
def test_each_kind_has_its_folder(tmp_path, ui, kind, folder):
    assert find_folder(ui, kind, tmp_path) == tmp_path / folder


@pytest.mark.parametrize("given", ["", "models", "models/Lora"])
def test_root_may_be_the_folder_of_the_kind_already(webui, given):
    assert find_folder("webui", "lora", webui / given) == webui / "models" / "Lora"


def test_missing_root_is_refused_unless_it_may_be_made(tmp_path):
    with pytest.raises(ConfigError, match="--create"):
        find_folder("webui", "lora", tmp_path / "none")
    assert find_folder("webui", "lora", tmp_path / "none", create=True) == tmp_path / "none" / "models" / "Lora"


def test_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PlatformError, match="is a file"):
        find_folder("webui", "lora", tmp_path / "file")


def test_folder_of_the_other_ui_is_refused(tmp_path, webui):
    (tmp_path / "comfy").mkdir()
    with pytest.raises(ConfigError, match="--to comfyui"):
        find_folder("webui", "lora", tmp_path)
    with pytest.raises(ConfigError, match="--to webui"):
        find_folder("comfyui", "lora", webui)


@pytest.mark.parametrize("given", ["", "models", "models/Lora"])
def test_forge_is_told_by_what_it_alone_has(webui, given):
    assert tell_webui(webui / given) == "a1111"
    (webui / "modules_forge").mkdir()
    assert tell_webui(webui / given) == "forge"


@pytest.mark.parametrize("other", ["models/Lora/sub/dog.safetensors", "models/Lora/dog.pt", "models/LyCORIS/dog.ckpt"])
def test_webui_takes_networks_of_one_stem_for_the_same(webui, other):
    (webui / other).parent.mkdir(parents=True, exist_ok=True)
    (webui / other).touch()
    assert find_namesakes("webui", "lora", webui / "models/Lora/dog.safetensors") == [webui / other]


@pytest.mark.parametrize(
    "other", ["models/Lora/dog.json", "models/Lora/dog.safetensors", "models/Lora/dog2.safetensors"]
)
def test_other_files_are_no_namesakes(webui, other):
    (webui / other).touch()
    assert find_namesakes("webui", "lora", webui / "models/Lora/dog.safetensors") == []


def test_comfyui_knows_files_by_path(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "dog.safetensors").touch()
    assert find_namesakes("comfyui", "lora", tmp_path / "dog.safetensors") == []
