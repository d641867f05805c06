import json

import pytest

from sdtune.errors import ConfigError, ModelError
from sdtune.export.deliver import deliver, describe_usage, plan_delivery


def names(paths):
    return [path.name for path in paths]


def test_webui_gets_file_card_and_picture(run_dir, webui):
    files = deliver(run_dir, to="webui", root=webui)
    assert names(files) == ["dog.safetensors", "dog.json", "dog.preview.png"]
    assert {path.parent for path in files} == {webui / "models" / "Lora"}
    assert files[0].read_bytes() == (run_dir / "exports" / "dog.safetensors").read_bytes()
    assert json.loads(files[1].read_text())["activation text"] == "zwx dog"
    assert files[2].read_bytes() == b"step-00000200-00.png"


def test_comfyui_gets_file_and_picture(run_dir, tmp_path):
    files = deliver(run_dir, to="comfyui", root=tmp_path / "comfy", create=True)
    assert [path.relative_to(tmp_path / "comfy").as_posix() for path in files] == [
        "models/loras/dog.safetensors",
        "models/loras/dog.preview.png",
    ]


def test_run_without_pictures_is_delivered_too(run_dir, webui):
    for path in (run_dir / "previews").iterdir():
        path.unlink()
    assert names(deliver(run_dir, to="webui", root=webui)) == ["dog.safetensors", "dog.json"]


def test_second_delivery_leaves_everything_as_it_is(run_dir, webui):
    before = [path.stat() for path in deliver(run_dir, to="webui", root=webui)]
    assert {file.state for file in plan_delivery(run_dir, to="webui", root=webui).files} == {"same"}
    assert [path.stat() for path in deliver(run_dir, to="webui", root=webui)] == before


def test_other_bytes_are_listed_and_left(run_dir, webui):
    model, card, _ = deliver(run_dir, to="webui", root=webui)
    model.write_bytes(b"other")
    card.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="--overwrite") as caught:
        deliver(run_dir, to="webui", root=webui)
    assert len(caught.value.problems) == 2
    assert (model.read_bytes(), card.read_bytes()) == (b"other", b"mine")


def test_other_bytes_are_replaced_when_asked(run_dir, webui):
    model = deliver(run_dir, to="webui", root=webui)[0]
    expected = model.read_bytes()
    model.write_bytes(b"other")
    assert deliver(run_dir, to="webui", root=webui, overwrite=True)[0].read_bytes() == expected


def test_another_name_goes_to_every_file(run_dir, webui):
    files = deliver(run_dir, to="webui", root=webui, name="corgi")
    assert names(files) == ["corgi.safetensors", "corgi.json", "corgi.preview.png"]


@pytest.mark.parametrize("name", ["", "..", "../up", "a/b", "a:b", "<a>", "a\n"])
def test_name_that_is_no_file_name_is_refused(run_dir, webui, name):
    with pytest.raises(ConfigError, match="cannot be a file's name"):
        deliver(run_dir, to="webui", root=webui, name=name)


def test_namesake_in_another_folder_is_refused(run_dir, webui):
    other = webui / "models" / "Lora" / "old" / "dog.safetensors"
    other.parent.mkdir()
    other.touch()
    with pytest.raises(ConfigError, match="choose another --name"):
        deliver(run_dir, to="webui", root=webui, overwrite=True)


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"name": 3}', '{"name": "dog", "kind": "zip"}'])
def test_folder_of_something_else_is_refused(run_dir, webui, text):
    (run_dir / "run.json").unlink() if text is None else (run_dir / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json"):
        deliver(run_dir, to="webui", root=webui)


def test_run_folder_from_a_stranger_cannot_reach_outside(run_dir, webui):
    (run_dir / "run.json").write_text('{"name": "../../dog"}')
    with pytest.raises(ConfigError, match="cannot be a file's name"):
        deliver(run_dir, to="webui", root=webui)


def test_unfinished_run_names_what_there_is(run_dir, webui):
    exports = run_dir / "exports"
    (exports / "dog.safetensors").rename(exports / "dog-000002.safetensors")
    with pytest.raises(ConfigError, match=r"dog-000002\.safetensors"):
        deliver(run_dir, to="webui", root=webui)


def test_broken_file_is_not_delivered(run_dir, webui):
    (run_dir / "exports" / "dog.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError):
        deliver(run_dir, to="webui", root=webui)
    assert not list((webui / "models" / "Lora").iterdir())


@pytest.fixture
def checkpoint_run(run_dir):
    """A run that gives a whole model, and the configuration that A1111 needs beside it."""
    (run_dir / "exports" / "dog.yaml").write_bytes(b"model: {}")
    files = [{"name": f"dog.{suffix}", "kind": "checkpoint"} for suffix in ("safetensors", "yaml")]
    facts = {"name": "dog", "trigger": "zwx dog", "family": "sd1", "kind": "checkpoint", "files": files}
    (run_dir / "run.json").write_text(json.dumps(facts))
    return run_dir


def test_a_models_configuration_follows_it_under_its_name(checkpoint_run, webui):
    delivery = plan_delivery(checkpoint_run, to="webui", root=webui, name="corgi", create=True)
    assert names(file.target for file in delivery.files) == ["corgi.safetensors", "corgi.preview.png", "corgi.yaml"]
    assert delivery.usage == "choose corgi as the model; in the prompt: zwx dog"


def test_comfyui_needs_no_configuration(checkpoint_run, tmp_path):
    files = deliver(checkpoint_run, to="comfyui", root=tmp_path / "comfy", create=True)
    assert names(files) == ["dog.safetensors", "dog.preview.png"]


def test_a_model_is_not_put_beside_the_configuration_of_another(checkpoint_run, webui):
    facts = json.loads((checkpoint_run / "run.json").read_text())
    (checkpoint_run / "run.json").write_text(json.dumps({**facts, "files": facts["files"][:1]}))
    folder = webui / "models" / "Stable-diffusion"
    folder.mkdir()
    (folder / "dog.yaml").touch()
    with pytest.raises(ConfigError, match=r"dog\.yaml lies there"):
        deliver(checkpoint_run, to="webui", root=webui, overwrite=True)


@pytest.mark.parametrize(
    ("to", "kind", "usage"),
    [
        ("webui", "lora", "in the prompt: <lora:dog:1> zwx"),
        ("webui", "embedding", "in the prompt: dog"),
        ("webui", "hypernetwork", "in the prompt: <hypernet:dog:1> zwx"),
        ("comfyui", "lora", "in a Load LoRA node: dog.safetensors; in the prompt: zwx"),
        ("comfyui", "embedding", "in the prompt: embedding:dog"),
        ("webui", "checkpoint", "choose dog as the model; in the prompt: zwx"),
    ],
)
def test_usage_tells_what_to_write(to, kind, usage):
    assert describe_usage(to, kind, "dog.safetensors", "zwx") == usage
