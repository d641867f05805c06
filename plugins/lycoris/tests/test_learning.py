import pytest

import sdtune_lycoris
from sdtune.testing.learning import learn

pytestmark = [pytest.mark.slow, pytest.mark.long]
LYCORIS, DYLORA = sdtune_lycoris.sdtune_methods()


@pytest.mark.parametrize("spec", [LYCORIS, DYLORA], ids=["lokr", "dylora"])
def test_a_subject_is_learned(spec, tmp_path):
    learned = learn([sdtune_lycoris], tmp_path, f"method={spec.name}", *spec.demo, "log.tensorboard=false")
    assert learned.before < 0.3
    assert learned.after > 0.5
    assert learned.kept == 1
