from __future__ import annotations

import json

from click.testing import CliRunner

from sdtune.cli.models import models
from sdtune.testing.tiny import write_tokenizer


def test_list_names_the_families(registry):
    result = CliRunner().invoke(models, ["list"], obj=registry)
    assert result.exit_code == 0
    assert "sd1     Stable Diffusion 1.x" in result.output


def test_list_as_json_is_one_document(registry):
    result = CliRunner().invoke(models, ["list", "--json"], obj=registry)
    assert [family["name"] for family in json.loads(result.output)["families"]] == ["sd1", "sd2", "sdxl"]


def test_tokenizer_tells_where_it_is(tmp_path):
    folder = write_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "m.safetensors").touch()
    result = CliRunner().invoke(models, ["tokenizer", "--for", str(tmp_path / "m.safetensors")])
    assert str(folder) in result.output


def test_tokenizer_takes_one_source_at_a_time(tmp_path):
    (tmp_path / "x.whl").touch()
    result = CliRunner().invoke(models, ["tokenizer", "--from-wheel", str(tmp_path / "x.whl"), "--dir", str(tmp_path)])
    assert "exclude each other" in str(result.exception)
