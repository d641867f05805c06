"""The configuration that a found rate makes."""

import pytest

import sdtune_dreambooth
import sdtune_hypernetwork
import sdtune_lora
import sdtune_lycoris
import sdtune_textual_inversion
from sdtune.config.compose import load
from sdtune.plugins import Registry
from sdtune.train.rate_search.advised import has_text_rate, with_rate, write_options

REGISTRY = Registry.from_plugins(
    [sdtune_dreambooth, sdtune_hypernetwork, sdtune_lora, sdtune_lycoris, sdtune_textual_inversion]
)
BOTH = frozenset({"unet", "text_encoder"})


def written(tmp_path, *overrides, rate=3.64e-5, trained=BOTH):
    loaded = load(REGISTRY, overrides=["train.steps=10", *overrides])
    path = tmp_path / "found.yaml"
    path.write_text(write_options(with_rate(loaded.options, loaded.spec, rate, trained), loaded.spec))
    return path.read_text(), load(REGISTRY, path).options


def test_all_three_rates_are_written_and_the_text_encoder_has_a_tenth(tmp_path):
    text, options = written(tmp_path, "method=lora")
    assert (options.train.lr, options.lora.unet_lr, options.lora.text_encoder_lr) == (3.64e-5, 3.64e-5, 3.64e-6)
    assert "  lr: 3.64e-05\n" in text
    assert options.train.optimizer.name == "adamw"
    assert options.train.schedule.name == "constant_with_warmup"


def test_the_written_file_holds_what_was_given_and_no_defaults(tmp_path):
    text, options = written(tmp_path, "method=lora", "lora.rank=4", "data.subsets=[{path: more, repeats: 3}]")
    assert (options.lora.rank, options.data.subsets[0].repeats) == (4, 3)
    assert "seed" not in text


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("dreambooth", {"unet_lr": 3.64e-5, "text_encoder_lr": 3.64e-6}),
        ("lycoris", {"unet_lr": 3.64e-5, "text_encoder_lr": 3.64e-6}),
        ("hypernetwork", {"lr": 3.64e-5}),
        ("textual_inversion", {"lr": 3.64e-5}),
    ],
)
def test_each_methods_own_rates_are_found(tmp_path, method, expected):
    _, options = written(tmp_path, f"method={method}")
    section = dict(options)[method].model_dump()
    assert {name: section[name] for name in expected} == expected


def test_several_methods_in_one_run_get_it_each(tmp_path):
    _, options = written(tmp_path, "method=lora+ti")
    assert (options.lora.unet_lr, options.textual_inversion.lr) == (3.64e-5, 3.64e-5)


def test_a_part_that_is_frozen_stays_frozen(tmp_path):
    _, options = written(tmp_path, "method=lora", "lora.text_encoder_lr=0", trained=frozenset({"unet"}))
    assert options.lora.text_encoder_lr == 0


def test_without_the_text_encoder_its_rate_is_left_alone(tmp_path):
    loaded = load(REGISTRY, overrides=["method=lora", "train.steps=10"])
    assert not has_text_rate(loaded.spec, frozenset({"unet"}))
    assert has_text_rate(loaded.spec, BOTH)
    _, options = written(tmp_path, "method=lora", "lora.text_encoder=false", trained=frozenset({"unet"}))
    assert options.lora.text_encoder_lr is None


@pytest.mark.parametrize(
    ("name", "kept"), [("adamw8bit", "adamw8bit"), ("lion", "adamw"), ("prodigy", "adamw"), ("torch.optim:AdamW",) * 2]
)
def test_only_a_kind_of_adamw_stays(tmp_path, name, kept):
    _, options = written(tmp_path, "method=lora", f"train.optimizer.name={name}", "train.schedule.name=cosine")
    assert options.train.optimizer.name == kept
    assert options.train.schedule.warmup == "5%"


def test_a_warmup_that_was_chosen_stays(tmp_path):
    _, options = written(tmp_path, "method=lora", "train.schedule.warmup=20")
    assert options.train.schedule.warmup == 20
