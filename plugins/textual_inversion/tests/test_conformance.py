import pytest

import sdtune_textual_inversion
from sdtune.testing import method_checks
from sdtune_textual_inversion.files import read_embedding


def load(model, path):
    """Let the word of a file stand for its vectors, as webuis do."""
    model.set_embeddings({path.stem: read_embedding(path).vectors})


@pytest.mark.slow
@method_checks(
    [sdtune_textual_inversion],
    "textual_inversion",
    options=["textual_inversion.init_text=zwx", "textual_inversion.vectors=1", "textual_inversion.formats=[pt]"],
    reload=load,
)
def test_textual_inversion_is_a_good_method(check, tmp_path):
    check(tmp_path)
