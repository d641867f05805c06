import pytest
import torch
from safetensors.torch import load_file, save_file

from sdtune.cli.main import run

KEY = "lora_unet_mid_block_attentions_0_proj_in"


@pytest.fixture
def adapter(tmp_path):
    tensors = {f"{KEY}.lora_down.weight": torch.randn(2, 4), f"{KEY}.lora_up.weight": torch.randn(8, 2)}
    save_file(tensors | {f"{KEY}.alpha": torch.tensor(1.0)}, tmp_path / "k.safetensors")
    return tmp_path / "k.safetensors"


def test_it_tells_what_it_did_in_a_few_lines(tmp_path, adapter, capsys):
    assert run(["convert", str(adapter), str(tmp_path / "d.safetensors"), "--to", "diffusers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "LoRA from webui (kohya) to diffusers: 1 layer (1 in unet)",
        "alpha: 1 multiplied into lora_B",
        f"wrote: {tmp_path / 'd.safetensors'}",
    ]
    assert len(load_file(tmp_path / "d.safetensors")) == 2


def test_nothing_is_overwritten_unasked(tmp_path, adapter, capsys):
    target = tmp_path / "d.safetensors"
    target.write_bytes(b"mine")
    arguments = ["convert", str(adapter), str(target), "--to", "diffusers"]
    assert run(arguments) == 2
    assert "exists" in capsys.readouterr().err
    assert target.read_bytes() == b"mine"
    assert run([*arguments, "--overwrite"]) == 0
    assert len(load_file(target)) == 2


def test_a_dry_run_writes_nothing(tmp_path, adapter, capsys):
    assert run(["convert", str(adapter), str(tmp_path / "hcp"), "--to", "hcp", "--dry-run"]) == 0
    assert "would write" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["k.safetensors"]


def test_hcps_switch_is_accepted_and_explained(tmp_path, adapter, capsys):
    arguments = ["convert", str(adapter), str(tmp_path / "hcp"), "--to", "hcp", "--auto-scale-alpha"]
    assert run(arguments) == 0
    assert "--auto-scale-alpha changes nothing" in capsys.readouterr().out


def test_the_source_is_never_the_target(adapter, capsys):
    assert run(["convert", str(adapter), str(adapter), "--dtype", "fp16", "--overwrite"]) == 2
    assert "is the source itself" in capsys.readouterr().err


def test_a_file_of_no_known_kind_is_refused_in_one_line(tmp_path, capsys):
    save_file({"foo.weight": torch.ones(2, 2), "bar.weight": torch.ones(3)}, tmp_path / "x.safetensors")
    assert run(["convert", str(tmp_path / "x.safetensors"), str(tmp_path / "y.safetensors")]) == 4
    assert len(capsys.readouterr().err.splitlines()) == 1
