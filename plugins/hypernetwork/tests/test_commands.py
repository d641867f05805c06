import pytest
import torch
from click.testing import CliRunner

from sdtune.api import ConfigError, ModelError
from sdtune.testing.webui import load_like_webui
from sdtune_hypernetwork.commands import hypernet


def invoke(*arguments):
    """Run `sdtune hypernet ...`; give what it prints, or raise its error."""
    result = CliRunner().invoke(hypernet, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def create(folder, *arguments):
    return invoke("create", "zwx", "--output", folder, "--sizes", "6,4", *arguments)


def test_creates_what_webui_creates(tmp_path):
    options = ["--structure", "1,2,1", "--activation", "swish", "--init", "XavierNormal", "--layer-norm"]
    assert create(tmp_path, *options, "--dropout", "0,0.1,0").strip() == str(tmp_path / "zwx.pt")
    content = load_like_webui(tmp_path / "zwx.pt")
    assert (content["name"], content["step"], content["activation_func"]) == ("zwx", 0, "swish")
    assert (content["weight_initialization"], content["dropout_structure"]) == ("XavierNormal", [0, 0.1, 0])
    assert list(content[6][0])[-2:] == ["linear.5.weight", "linear.5.bias"]


def test_the_same_seed_gives_the_same_file(tmp_path):
    for folder, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        create(tmp_path / folder, "--seed", seed)
    first, again, other = ((tmp_path / folder / "zwx.pt").read_bytes() for folder in "abc")
    assert first == again != other


def test_a_file_is_replaced_only_when_asked(tmp_path):
    create(tmp_path)
    with pytest.raises(ConfigError, match="exists"):
        create(tmp_path)
    create(tmp_path, "--overwrite")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--structure", "2,1", "structure must begin and end with 1"),
        ("--activation", "glu", "--activation: must be one of"),
        ("--dropout", "0,0.1", "dropout must have 3 numbers"),
        ("--sizes", "wide", "--sizes: "),
    ],
)
def test_what_makes_no_sense_is_told(option, value, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        create(tmp_path, option, value)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_no_file_name_is_told(tmp_path):
    with pytest.raises(ConfigError, match="NAME must be a file's name; it is 'a/b'"):
        invoke("create", "a/b", "--output", tmp_path)


def test_shows_what_a_file_holds(tmp_path):
    create(tmp_path, "--activation", "relu", "--layer-norm", "--dropout", "0,0.1,0")
    told = invoke("show", tmp_path / "zwx.pt")
    assert "sizes       6, 4" in told
    assert "dropout     0, 0.1, 0" in told
    assert "also activates the output" in told


def test_other_files_are_told(tmp_path):
    torch.save({"string_to_param": {}}, tmp_path / "embedding.pt")
    with pytest.raises(ModelError, match="not a hypernetwork"):
        invoke("show", tmp_path / "embedding.pt")
