"""Remedies speak of reasons that readers give, and the docs tell the same."""

import re
from pathlib import Path

import pytest

import sdtune
from sdtune.formats.consumers.remedies import REMEDIES, find_remedy

FOLDER = Path(sdtune.__file__).parent / "formats/consumers"
TOLD = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py") if path.name != "remedies.py")
DOCS = (Path(sdtune.__file__).parents[1] / "docs/certificate.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", REMEDIES)
def test_a_reader_gives_such_a_reason(words):
    assert words in TOLD


def test_the_docs_tell_every_remedy():
    told = re.findall(r"^\| [^|]+ \| ([^|]+) \|$", DOCS.partition("\n## Remedies")[2], re.MULTILINE)
    assert set(REMEDIES.values()) <= {remedy.replace("`", "") for remedy in told}


def test_the_first_words_that_fit_decide():
    assert find_remedy("not supported: it has no activation 'softplus'").startswith("choose an activation")
    assert find_remedy("refused: nobody knows why") == ""
