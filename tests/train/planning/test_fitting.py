"""Settings chosen for a given memory: which, in which order, and what is left alone."""

import pytest

import sdtune_lora
from sdtune.config.compose import load
from sdtune.config.overrides import Setting
from sdtune.errors import ConfigError, OutOfMemoryError
from sdtune.plugins import Registry
from sdtune.testing.images import write_images
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.machine.ranks import Ranks
from sdtune.train.needs.forecast import Forecast, Phase
from sdtune.train.planning import fitting
from sdtune.train.planning.fitting import RUNGS, parse_size, prepare
from sdtune.train.saving.folder import RunFolder

REGISTRY = Registry.from_plugins([sdtune_lora])


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    write_images(folder / "3_thing", 2, sizes=((64, 64),))
    tiny_sd1(folder / "tiny")
    paths = (f"model.path={folder / 'tiny'}", f"data.path={folder}")
    return ("method=lora", *paths, "data.resolution=64", "train.steps=2", "lora.rank=1", "lora.text_encoder=false")


@pytest.fixture
def gigabytes(monkeypatch):
    """Forecasts by rule instead of by shape: 10 GB, less for each change."""

    def foretell(run):
        options, train = run.options, run.options.train
        needed = 2 * options.output.certify + 4 * (not train.gradient_checkpointing) + train.batch_size
        phase = Phase(name="training", parts={"all": needed * 10**9})
        return Forecast(device="cpu", phases=(phase,), disk={}, flops=1, step_seconds=None, time_source="", steps=1)

    monkeypatch.setattr(fitting, "make_forecast", foretell)


def fit(words, limit, *more, flags=()):
    loaded = load(REGISTRY, overrides=[*words, *more], flags=flags)
    return prepare(loaded, REGISTRY, RunFolder(loaded.options.data.path / "out"), Ranks(), limit)


@pytest.mark.parametrize(
    ("text", "count"), [("8GB", 8 * 10**9), ("7.5 gb", 7_500_000_000), ("1GiB", 2**30), ("900MB", 9 * 10**8)]
)
def test_a_size_is_read(text, count):
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["8", "GB", "-1GB", "eight GB", "0GB", "1.2.3GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match="is no size"):
        parse_size(text)


def test_what_fits_stays_as_it_was(words, gigabytes):
    loaded, run = fit(words, 20 * 10**9)
    assert run.fitted == ()
    assert loaded.options.output.certify


@pytest.mark.slow
def test_changes_are_made_until_it_fits_and_told(words, gigabytes):
    loaded, run = fit(words, 6 * 10**9)
    assert not loaded.options.output.certify
    assert not loaded.options.train.gradient_checkpointing
    assert loaded.origins["output.certify"] == "--fit 6.00GB"
    assert run.fitted == (
        "--fit 6.00GB: output.certify=false saves 2.00 GB; read the files back later with `sdtune verify`",
    )


@pytest.mark.slow
def test_what_the_user_gave_is_left_alone(words, gigabytes):
    loaded, _ = fit(words, 4 * 10**9, "output.certify=true")
    assert loaded.options.output.certify
    assert loaded.options.train.gradient_checkpointing


@pytest.mark.slow
def test_a_batch_is_split_and_the_step_keeps_its_images(words, gigabytes):
    flags = [Setting(option="train.batch_size", value="6", flag="--batch-size")]
    loaded, run = fit(words, 4 * 10**9, flags=flags)
    train = loaded.options.train
    assert (train.batch_size, train.gradient_accumulation) == (3, 2)
    assert run.options == loaded.options.model_copy(update={"data": run.options.data})


@pytest.mark.slow
def test_what_cannot_fit_is_refused_with_the_least_there_is(words, gigabytes):
    with pytest.raises(OutOfMemoryError, match=r"the least that was found is 1\.00 GB, while training") as caught:
        fit(words, 10**9 // 2)
    assert caught.value.exit_code == 7
    assert "smaller data.resolution" in str(caught.value)


def test_the_optimizer_and_precision_come_last():
    prices = [rung.price for rung in RUNGS]
    assert "8 bits" in prices[-1]
    assert "fewer digits" in prices[-2]
