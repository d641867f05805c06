"""Names of optimizers, and what the table says of them."""

import pytest

from sdtune.config.optimizers import OPTIMIZERS, check_optimizer_name, find_entry


@pytest.mark.parametrize("name", [*OPTIMIZERS, "torch.optim:NAdam", "my_package.sub:Own"])
def test_a_name_of_the_table_or_an_import_string_is_accepted(name):
    assert check_optimizer_name(name) == name


@pytest.mark.parametrize(
    ("name", "meant"),
    [("prodig", "prodigy"), ("AdamW8bit", "adamw8bit"), ("DAdaptAdam", "dadapt_adam"), ("Lion8bit", "lion8bit")],
)
def test_a_name_that_is_nearly_right_or_of_kohyas_scripts_is_put_right(name, meant):
    with pytest.raises(ValueError, match=f"such as {meant}, or module:Class"):
        check_optimizer_name(name)


@pytest.mark.parametrize("name", ["", "xyz", "a.b", ":Own", "module:", "os; x:y"])
def test_anything_else_is_refused_with_all_names(name):
    with pytest.raises(ValueError, match=r"must be (one of adamw, sgd|an optimizer's name)"):
        check_optimizer_name(name)


def test_each_name_of_kohyas_scripts_stands_for_one_optimizer():
    names = [name for entry in OPTIMIZERS.values() for name in entry.kohya.split(", ") if name]
    assert len(names) == len(set(names))


def test_of_an_import_string_only_the_package_is_known():
    entry = find_entry("some.module:Own")
    assert (entry.dotted, entry.install, entry.rate) == ("some.module.Own", "pip install some", "given")
