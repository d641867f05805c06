from pathlib import Path

from sdtune.data.check.diagnosis import CHECKS
from sdtune.data.check.kinds import KINDS
from sdtune.data.check.report import kinds_table

DOCS = Path(__file__).parents[3] / "docs/data-check.md"


def test_the_documentation_lists_all_kinds():
    assert kinds_table() in DOCS.read_text(encoding="utf-8")


def test_names_of_kinds_are_different():
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 25


def test_no_check_is_listed_twice():
    assert len(set(CHECKS)) == len(CHECKS)


def test_every_kind_says_why_in_a_sentence():
    assert [kind.name for kind in KINDS if not kind.why.endswith(".") or not kind.why[0].isupper()] == [
        "wrong-extension",
        "turned",
    ]
