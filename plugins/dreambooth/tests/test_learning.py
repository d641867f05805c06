"""Does it learn, and does the prior keep the class? Measured on the demo model with a toy it has never seen."""

import pytest

import sdtune_dreambooth
from sdtune.testing.learning import class_drift, learn

pytestmark = [pytest.mark.slow, pytest.mark.long]
PLUGINS = [sdtune_dreambooth]
OPTIONS = ("method=dreambooth", "dreambooth.unet_lr=1e-4", "log.tensorboard=false", "save.dtype=fp32")
PRIOR = (
    'regularization.prompt="a photo of a toy"',
    "regularization.generate.per_image=8",
    "regularization.generate.steps=20",
    "regularization.generate.cfg=4",
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    learned = learn(PLUGINS, folder, *OPTIONS, "train.steps=150", "train.batch_size=2")
    return _measured(learned, folder)


@pytest.fixture(scope="module")
def with_prior(tmp_path_factory):
    """As many visits of the subject, and as many again of its class."""
    folder = tmp_path_factory.mktemp("prior")
    own = (*PRIOR, f"regularization.path={folder / 'toys'}")
    learned = learn(PLUGINS, folder, *OPTIONS, *own, "train.steps=175", "train.batch_size=4")
    return _measured(learned, folder)


def _measured(learned, folder):
    drift = class_drift(learned.run, folder / "images")
    print(f"likeness {learned.before:.2f} to {learned.after:.2f}, class {drift:.2f}, {learned.seconds:.0f} s")  # noqa: T201  # for docs
    return learned, drift


def test_the_model_learns_a_subject_it_has_never_seen(alone):
    learned, _ = alone
    assert learned.before < 0.3
    assert learned.after >= 0.5
    assert learned.kept == 1


def test_the_subject_is_learned_with_the_prior_too(with_prior):
    learned, _ = with_prior
    assert learned.after >= 0.45


def test_the_prior_keeps_the_class(alone, with_prior):
    (_, drift), (_, kept) = alone, with_prior
    assert drift - kept >= 0.15
