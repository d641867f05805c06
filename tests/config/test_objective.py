import pytest
from pydantic import ValidationError

from sdtune.config.data import DataOptions
from sdtune.config.objective import LossOptions, NoiseOptions, TimestepOptions


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        (LossOptions, {"min_snr_gamma": 5, "debiased": True}, "give one of min_snr_gamma, debiased"),
        (LossOptions, {"p2_gamma": 1, "debiased": True}, "give one of debiased, p2_gamma"),
        (LossOptions, {"scale_v_like_noise": True, "v_like": 1}, "give one"),
        (NoiseOptions, {"offset_random": True}, "offset_random would do nothing without offset"),
        (NoiseOptions, {"perturbation_random": True}, "would do nothing without perturbation"),
        (NoiseOptions, {"pyramid_discount": 0.5}, "would do nothing without pyramid_levels"),
        (LossOptions, {"huber_c": 0.2, "huber_scale": 2}, "huber_c and huber_scale would do nothing without type"),
        (LossOptions, {"p2_k": 2}, "would do nothing without p2_gamma"),
        (TimestepOptions, {"std": 2}, "would do nothing without distribution: logit_normal"),
        (TimestepOptions, {"slope": 2}, "would do nothing without distribution: sigmoid"),
        (DataOptions, {"mask": {"normalise": False}}, "mask does nothing without a folder"),
        (TimestepOptions, {"distribution": "weights"}, "belong together"),
        (TimestepOptions, {"weights": [1, 2]}, "belong together"),
        (TimestepOptions, {"distribution": "weights", "weights": [0, 0]}, "must not all be 0"),
    ],
)
def test_options_that_contradict_each_other_are_refused(section, options, message):
    with pytest.raises(ValidationError, match=message):
        section(**options)


@pytest.mark.parametrize(
    ("section", "options"),
    [
        (LossOptions, {"min_snr_gamma": 5, "scale_v_like_noise": True}),
        (LossOptions, {"p2_gamma": 1, "v_like": 0.5, "type": "huber"}),
        (NoiseOptions, {"offset_adaptive": 0.1}),
        (TimestepOptions, {"distribution": "weights", "weights": [0, 1]}),
    ],
)
def test_options_that_work_together_are_taken(section, options):
    assert section(**options)
