"""`sdtune inspect` as a user sees it."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from sdtune.cli.main import run
from sdtune.plugins import Registry
from sdtune.testing.full import full_model
from sdtune.testing.tiny import tiny_sd1

NOTHING = Registry.from_plugins([])
KEY = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture
def adapter(tmp_path):
    tensors = {f"{KEY}.lora_down.weight": torch.ones(4, 768), f"{KEY}.lora_up.weight": torch.ones(64, 4)}
    metadata = {"ss_training_comment": "a\x1b[31mred", "ss_output_name": "dog"}
    save_file(tensors | {f"{KEY}.alpha": torch.tensor(2.0)}, tmp_path / "dog.safetensors", metadata)
    return tmp_path / "dog.safetensors"


def inspect(capsys, *words):
    code = run(["inspect", *map(str, words)], NOTHING)
    return code, capsys.readouterr()


def test_lines_fit_and_start_in_two_columns(capsys, adapter):
    code, output = inspect(capsys, adapter, "--weights", "--hash")
    lines = output.out.splitlines()
    assert code == 0
    assert max(map(len, lines)) <= 100
    assert all((line[15] == " " and line[16] != " ") or line.startswith(" " * 16) for line in lines)


def test_words_of_a_file_cannot_command_the_terminal(capsys, adapter):
    assert "\x1b" not in inspect(capsys, adapter)[1].out


def test_json_is_one_document(capsys, adapter):
    document = json.loads(inspect(capsys, adapter, "--json", "--weights", "--hash", "--keys")[1].out)
    assert (document["schema"], document["kind"], document["family"]) == (1, "lora", "sd1")
    assert document["keys"][f"{KEY}.alpha"] == ["F32"]
    assert {"weights", "hashes", "adapter", "loads_in", "training", "metadata"} <= document.keys()


def test_every_field_of_the_document_is_documented(capsys, adapter, tmp_path):
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs" / "inspect.md").read_text(encoding="utf-8")
    documents = [json.loads(inspect(capsys, adapter, "--json", "--weights", "--hash", "--keys")[1].out)]
    documents.append(json.loads(inspect(capsys, tiny_sd1(tmp_path / "m"), "--json")[1].out))
    sections = {name: value for d in documents for name, value in d.items()}
    fields = set(sections) | {f for name in ("adapter", "model", "weights", "hashes") for f in sections[name]}
    assert {field for field in fields if f"`{field}`" not in text} == set()


def test_keys_are_listed_on_request(capsys, adapter):
    assert f"{KEY}.lora_down.weight  F32 4x768" in inspect(capsys, adapter, "--keys")[1].out


@pytest.mark.parametrize(
    ("name", "content"),
    [("cut.safetensors", b"\x10\x00"), ("text.safetensors", b"no weights at all"), ("pickle.pt", b"\x80\x02}q\x00.")],
)
def test_a_damaged_file_is_one_line_and_exit_4(capsys, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    code, output = inspect(capsys, tmp_path / name)
    assert (code, output.out, output.err.count("\n")) == (4, "", 1)


def test_a_file_that_is_not_there_is_exit_4(capsys, tmp_path):
    assert inspect(capsys, tmp_path / "none.safetensors")[0] == 4


def test_what_is_of_no_known_kind_is_said_so(capsys, tmp_path):
    save_file({"a.weight": torch.ones(2)}, tmp_path / "x.safetensors")
    code, output = inspect(capsys, tmp_path / "x.safetensors")
    assert (code, "of no known kind" in output.out) == (0, True)


def test_a_run_shows_what_it_exported(capsys, adapter, tmp_path):
    folder = tmp_path / "run"
    (folder / "exports").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    assert inspect(capsys, folder)[0] == 4
    (folder / "exports" / "dog.safetensors").write_bytes(adapter.read_bytes())
    documents = json.loads(inspect(capsys, folder, "--json")[1].out)
    assert [document["kind"] for document in documents] == ["lora"]


TOLD = """
import sys
from sdtune.cli.main import run
from sdtune.plugins import Registry

code = run(["inspect", sys.argv[1], "--json"], registry=Registry.from_plugins([]))
print("torch" in sys.modules, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("family", "parts"), [("sd1", 3), ("sd2", 3), ("sdxl", 4)])
def test_a_model_of_full_width_is_told_from_its_header_without_torch(tmp_path, family, parts):
    path = full_model(tmp_path / "full.safetensors", family, torch.float16, is_sparse=True)
    told = subprocess.run([sys.executable, "-c", TOLD, path], capture_output=True, text=True, check=True)
    document = json.loads(told.stdout)
    assert (document["family"], len(document["model"]["parts"]), document["remarks"]) == (family, parts, [])
    assert told.stderr.strip() == "False"
