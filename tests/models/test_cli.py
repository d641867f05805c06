from __future__ import annotations

import json

from click.testing import CliRunner

from sdtune.cli.models import models


def test_list_names_the_families(registry):
    result = CliRunner().invoke(models, ["list"], obj=registry)
    assert result.exit_code == 0
    assert "sd1     Stable Diffusion 1.x" in result.output


def test_list_as_json_is_one_document(registry):
    result = CliRunner().invoke(models, ["list", "--json"], obj=registry)
    assert [family["name"] for family in json.loads(result.output)["families"]] == ["sd1", "sd2", "sdxl"]
