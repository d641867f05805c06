import pytest

from sdtune.formats.layer_names import kohya_key, layer_path, with_dots
from sdtune.models.libraries import unet_class
from sdtune.testing.models import open_tiny
from sdtune.testing.tiny import tiny_model

FAMILIES = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    """Targets of a tiny model have the names of the true one: its topology is the same."""
    folder = tmp_path_factory.mktemp("model") / request.param
    return open_tiny(tiny_model(folder, request.param), request.param)


def test_each_layer_has_the_name_the_model_gives_it_and_comes_back(model):
    parts = {"lora_unet": "unet", "lora_te": "text_encoder", "lora_te1": "text_encoder", "lora_te2": "text_encoder_2"}
    paths = [target.path for target in model.targets(["unet", "text_encoder"])]
    keys = [kohya_key(path, model.family) for path in paths]
    assert keys == [model.webui_key(path) for path in paths]
    split = [key.partition("_")[0] + "_" + key.split("_")[1] for key in keys]
    names = [key.removeprefix(f"{prefix}_") for prefix, key in zip(split, keys, strict=True)]
    back = [layer_path(parts[prefix], name, model.family) for prefix, name in zip(split, names, strict=True)]
    assert back == paths


def test_every_module_of_sdxls_unet_gets_its_dots_back():
    import torch

    with torch.device("meta"):
        unet = unet_class()(
            block_out_channels=(32, 32, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=64,
            use_linear_projection=True,
        )
    names = [name for name, _ in unet.named_parameters()]
    modules = [name.rpartition(".")[0] for name in names]
    assert [with_dots(name.replace(".", "_")) for name in modules] == modules


@pytest.mark.parametrize(
    ("component", "name"),
    [("unet", "double_blocks_0_img_attn_proj"), ("text_encoder", "foo_0"), ("unet", "input_blocks_77_1_proj_in")],
)
def test_a_layer_of_another_model_is_refused(component, name):
    with pytest.raises(KeyError):
        layer_path(component, name, "sdxl")
