import pytest
from pydantic import ValidationError

from sdtune.config.targets import TargetRule

PATH = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize("pattern", ["*", "unet.*", "*.to_q", "*.to_[qk]", PATH, "re:attn1", r"re:^unet\..*to_(q|k)$"])
def test_matches(pattern):
    assert TargetRule(match=pattern).matches(PATH)


@pytest.mark.parametrize("pattern", ["to_q", "*.TO_Q", "unet", "re:^attn1", "re:ATTN1", "attn1"])
def test_does_not_match(pattern):
    assert not TargetRule(match=pattern).matches(PATH)


@pytest.mark.parametrize("pattern", ["", "re:("])
def test_a_pattern_that_says_nothing_is_refused(pattern):
    with pytest.raises(ValidationError):
        TargetRule(match=pattern)


def test_a_rule_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        TargetRule(match="*").exclude = True
