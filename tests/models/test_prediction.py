from __future__ import annotations

from pathlib import Path

import pytest

from sdtune.config.model import ModelOptions
from sdtune.errors import ModelError
from sdtune.models.prediction import Claim, decide, gather_claims, guess_from_bias

FILE = Path("base.safetensors")
V, EPSILON = "v_prediction", "epsilon"


def claims(path=FILE, *, names=(), metadata=None, scheduler=None):
    return gather_claims(path, names=names, metadata=metadata or {}, scheduler=scheduler or {})


def decided(*found, default=EPSILON, guess=lambda: None, **options):
    return decide(ModelOptions(**options), found, default=default, guess=guess)


@pytest.mark.parametrize(
    ("known", "prediction", "source"),
    [
        ({"names": {"v_pred"}}, V, "tensor v_pred"),
        ({"names": {"ztsnr"}}, V, "tensor ztsnr"),
        ({"metadata": {"modelspec.prediction_type": "v"}}, V, "metadata modelspec.prediction_type"),
        ({"metadata": {"modelspec.predict_key": "epsilon"}}, EPSILON, "metadata modelspec.predict_key"),
        (
            {"metadata": {"modelspec.architecture": "stable-diffusion-v2-768-v"}},
            V,
            "metadata modelspec.architecture",
        ),
        ({"scheduler": {"prediction_type": V}}, V, "scheduler_config.json"),
        ({"scheduler": {"prediction_type": "sample"}}, "sample", "scheduler_config.json"),
        ({"metadata": {"modelspec.prediction_type": "sample"}}, "sample", "metadata modelspec.prediction_type"),
        ({"scheduler": {"beta_start": 0.1}}, EPSILON, "the family's default"),
        ({"metadata": {"modelspec.architecture": "stable-diffusion-v1"}}, EPSILON, "the family's default"),
    ],
)
def test_a_model_says_what_it_predicts(known, prediction, source):
    found = decided(*claims(**known))
    assert (found.prediction, found.source) == (prediction, source)


def test_who_trains_a_model_of_pictures_is_told_who_can_draw_with_it():
    found = decided(prediction="sample", zero_terminal_snr=True)
    assert str(found).startswith("predicts x_0 (model.prediction), zero terminal SNR")
    assert "A1111 and Forge cannot be told" in found.notes[0]


def test_the_sidecar_is_trusted_most(tmp_path):
    (tmp_path / "base.yaml").write_text("model: {target: x.LatentDiffusion}")
    found = decided(*claims(tmp_path / "base.safetensors", names={"v_pred"}))
    assert str(found) == "predicts noise (sidecar base.yaml)"
    assert found.notes == ("the model is taken to predict noise (sidecar base.yaml), but tensor v_pred says v",)


def test_marks_are_trusted_more_than_metadata_and_that_more_than_the_scheduler():
    everything = claims(
        names={"v_pred"}, metadata={"modelspec.prediction_type": "epsilon"}, scheduler={"prediction_type": EPSILON}
    )
    assert [claim.source for claim in everything] == [
        "tensor v_pred",
        "metadata modelspec.prediction_type",
        "scheduler_config.json",
    ]
    assert decided(*everything).prediction == V


def test_a_guess_is_asked_for_only_when_nobody_speaks_and_is_called_one():
    found = decided(guess=lambda: guess_from_bias(0.2))
    assert found.prediction == V
    assert "guess" in found.source
    assert decided(*claims(scheduler={"prediction_type": EPSILON}), guess=pytest.fail).prediction == EPSILON
    assert decided(prediction=V, guess=pytest.fail).source == "model.prediction"


@pytest.mark.parametrize(("std", "prediction"), [(0.05, EPSILON), (0.2, V), (float("nan"), EPSILON)])
def test_the_guess_is_comfyuis(std, prediction):
    assert guess_from_bias(std).prediction == prediction


@pytest.mark.parametrize("wanted", [EPSILON, V])
def test_a_choice_wins_where_the_file_says_nothing(wanted):
    assert decided(prediction=wanted).prediction == wanted


def test_a_choice_against_the_models_own_mark_is_refused():
    with pytest.raises(ModelError, match=r"model.prediction is epsilon, but the model's own tensor v_pred says .* v;"):
        decided(*claims(names={"v_pred"}), prediction=EPSILON, guess=pytest.fail)


def test_a_choice_against_the_models_own_metadata_is_refused():
    with pytest.raises(ModelError, match=r"metadata modelspec\.prediction_type says it predicts noise"):
        decided(*claims(metadata={"modelspec.prediction_type": "epsilon"}), prediction=V)


def test_a_choice_that_the_most_trusted_source_shares_is_no_contradiction():
    known = claims(names={"v_pred"}, metadata={"modelspec.prediction_type": "epsilon"})
    found = decided(*known, prediction=V)
    assert found.prediction == V
    assert "metadata modelspec.prediction_type says noise" in found.notes[0]


def test_a_choice_against_a_file_beside_the_model_wins_and_is_noted():
    found = decided(*claims(scheduler={"prediction_type": EPSILON}), prediction=V)
    assert found.prediction == V
    assert "scheduler_config.json says noise" in found.notes[0]


@pytest.mark.parametrize(
    ("known", "source"),
    [
        ({"names": {"v_pred", "ztsnr"}}, "tensor ztsnr"),
        ({"scheduler": {"prediction_type": V, "rescale_betas_zero_snr": True}}, "scheduler_config.json"),
    ],
)
def test_a_model_says_that_its_schedule_ends_in_pure_noise(known, source):
    found = decided(*claims(**known))
    assert found.zero_snr
    assert str(found).endswith(f"zero terminal SNR ({source})")


@pytest.mark.parametrize("wanted", [False, True])
def test_a_choice_of_the_schedule_wins(wanted):
    assert decided(*claims(names={"v_pred", "ztsnr"}), zero_terminal_snr=wanted).zero_snr is wanted
    assert decided(*claims(names={"v_pred"}), zero_terminal_snr=wanted).zero_snr is wanted


def test_pure_noise_is_refused_for_a_model_that_predicts_noise():
    with pytest.raises(ModelError, match="zero terminal SNR needs a model that predicts v") as caught:
        decided(zero_terminal_snr=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "known",
    [
        {"names": {"edm_mean", "edm_std"}},
        {"scheduler": {"prediction_type": "flow_prediction"}},
        {"metadata": {"modelspec.prediction_type": "edm"}},
    ],
)
def test_models_that_predict_something_else_are_refused(known):
    with pytest.raises(ModelError, match="trained"):
        claims(**known)


def test_a_source_without_a_word_on_the_prediction_still_counts_for_the_schedule():
    found = decided(Claim(source="somebody", zero_snr=True), default=V)
    assert (found.prediction, found.zero_snr_source) == (V, "somebody")
