import pytest

import sdtune_lycoris
from sdtune.testing.learning import learn

pytestmark = pytest.mark.slow
COMMON = ("train.steps=300", "train.batch_size=5", "train.schedule.name=cosine")


def test_lokr_learns_a_subject(tmp_path):
    options = ("method=lycoris", "lycoris.algo=lokr", "lycoris.factor=4", "lycoris.preset=unet-only", "train.lr=2e-3")
    learned = learn([sdtune_lycoris], tmp_path, *COMMON, *options)
    assert learned.before < 0.3
    assert learned.after > 0.5
    assert learned.kept == 1


def test_dylora_learns_a_subject(tmp_path):
    options = ("method=dylora", "dylora.preset=unet-only", "train.lr=2e-3")
    learned = learn([sdtune_lycoris], tmp_path, *COMMON, *options)
    assert learned.before < 0.3
    assert learned.after > 0.5
