import pytest

import sdtune_textual_inversion
from sdtune.testing import FAMILIES, method_checks
from sdtune.testing.webui import load_like_webui


def use(model, path):
    """Let the word that the file is named after stand for its vectors, as webui does."""
    content = load_like_webui(path)
    if "string_to_param" in content:
        (vectors,) = content["string_to_param"].values()
        content = {"clip_l": vectors}
    model.set_embeddings({path.stem: content})


@pytest.mark.slow
@method_checks(
    [sdtune_textual_inversion],
    "textual_inversion",
    families=FAMILIES,
    options=["textual_inversion.token=zwx", "textual_inversion.vectors=2", "textual_inversion.init_text=red dog"],
    is_identity_at_start=False,
    reload=use,
)
def test_textual_inversion_is_a_good_method(check, tmp_path):
    check(tmp_path)
