"""The loss of a step, term by term, against plain loops written from the papers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sdtune.config.schema import CoreOptions
from sdtune.errors import ConfigError
from sdtune.testing.models import open_tiny_sd1
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.method import Method
from sdtune.train.planning.objective_text import describe_objective, objective_notes
from sdtune.train.step.draws import Drawer
from sdtune.train.step.forward import StepInputs, TrainStep
from sdtune.train.step.objective import (
    check_objective,
    cumulated_shares,
    make_objective,
)

SHAPE = (4, 8, 12)
IDS = ("a#0", "b#0", "c#1")
MASKED = "masked"
EPSILON = (
    {},
    {"loss": {"type": "l1"}},
    *({"loss": {"type": "huber", "huber_schedule": form}} for form in ("snr", "exponential", "constant")),
    *(
        {"loss": {"type": "smooth_l1", "huber_schedule": form, "huber_c": 0.3, "huber_scale": 2.0}}
        for form in ("snr", "exponential", "constant")
    ),
    {"loss": {"min_snr_gamma": 5.0}},
    {"loss": {"debiased": True}},
    {"loss": {"p2_gamma": 0.5, "p2_k": 2.0}},
    {"loss": {"v_like": 0.5}},
    {"loss": {"v_like": 0.5, "min_snr_gamma": 1.0, "type": "huber"}},
    {"noise": {"offset": 0.1}},
    {"noise": {"offset": 0.1, "offset_random": True}},
    {"noise": {"offset": 0.05, "offset_adaptive": 0.2}},
    {"noise": {"offset": 0.05, "offset_adaptive": -0.4}},
    {"noise": {"pyramid_levels": 6, "pyramid_discount": 0.5}},
    {"noise": {"perturbation": 0.1}},
    {"noise": {"perturbation": 0.3, "perturbation_random": True}},
    {"timesteps": {"distribution": "logit_normal", "mean": 0.5, "std": 0.8}},
    {"timesteps": {"distribution": "sigmoid", "slope": -5.0, "centre": 0.3}},
    {"timesteps": {"distribution": "weights", "weights": [0.0, 1.0, 3.0]}},
    {MASKED: True},
    {
        "loss": {"type": "smooth_l1", "min_snr_gamma": 5.0},
        "noise": {"offset": 0.05, "offset_random": True, "pyramid_levels": 8, "perturbation": 0.1},
        "timesteps": {"distribution": "logit_normal"},
        "train": {"min_timestep": 100, "max_timestep": 900},
        MASKED: True,
    },
)
VELOCITY = (
    {},
    {"loss": {"min_snr_gamma": 5.0}},
    {"loss": {"debiased": True}},
    {"loss": {"p2_gamma": 1.0}},
    {"loss": {"scale_v_like_noise": True}},
    {"loss": {"scale_v_like_noise": True, "min_snr_gamma": 5.0, "type": "l1"}, "noise": {"perturbation": 0.1}},
    {"loss": {"type": "huber"}, "noise": {"offset": 0.1, "offset_adaptive": 0.1, "pyramid_levels": 3}, MASKED: True},
)
CASES = [
    *(("epsilon", case) for case in EPSILON),
    *(("v_prediction", case) for case in VELOCITY),
    *(("sample", case) for case in ({}, {"loss": {"min_snr_gamma": 5.0}}, {"loss": {"debiased": True}})),
    *(("zero_snr", case) for case in VELOCITY),
]


class _Plain(Method):
    kind = "lora"

    def attach(self, model, seed):
        raise NotImplementedError

    export = attach


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models that differ in what they are taken to predict alone."""
    path = tiny_sd1(tmp_path_factory.mktemp("model") / "tiny")

    def opened(prediction, *, is_zero=False):
        model = open_tiny_sd1(path)
        model.load("unet")
        model.load("text_encoder")
        model.prediction = prediction
        model.schedule = model.schedule.rescaled_to_zero_snr() if is_zero else model.schedule
        return model

    return {
        **{name: opened(name) for name in ("epsilon", "v_prediction", "sample")},
        "zero_snr": opened("v_prediction", is_zero=True),
    }


def options_of(case):
    return CoreOptions.model_validate({name: value for name, value in case.items() if name != MASKED})


def draw(options, ids=IDS):
    train = options.train
    drawer = Drawer(
        seed=5,
        min_timestep=train.min_timestep,
        max_timestep=train.max_timestep,
        noise=options.noise,
        cumulated_shares=cumulated_shares(options, 1000),
    )
    return drawer.draw(2, ids, SHAPE)


def inputs_of(case, ids=IDS):
    """Inputs of samples that have latents, masks and weights of their own."""
    draws = draw(options_of(case), ids)
    places = [IDS.index(name) for name in ids]
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(len(IDS), *SHAPE, generator=generator)[places]
    mask = torch.rand(len(IDS), 1, *SHAPE[1:], generator=generator)[places]
    return StepInputs(
        pixels=None,
        mean=mean,
        std=torch.full_like(mean, 0.1),
        posterior_noise=draws.posterior_noise,
        noise=draws.noise,
        timesteps=draws.timesteps,
        captions=tuple(f"a photo {name}" for name in ids),
        cond=None,
        weights=torch.tensor([1.0, 0.5, 2.0])[places],
        mask=mask if MASKED in case else None,
        offset=draws.offset,
        offset_strength=draws.offset_strength,
        perturbation=draws.perturbation,
    )


@torch.no_grad()
def losses(model, case, inputs):
    step = TrainStep(model, _Plain(None), make_objective(options_of(case), model))
    return step(inputs)[0]


def plain_alpha_bar(*, is_zero):
    alpha_bar, product = [], 1.0
    for k in range(1000):
        root = math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * k / 999
        product *= 1 - root * root
        alpha_bar.append(product)
    if is_zero:
        first, last = math.sqrt(alpha_bar[0]), math.sqrt(alpha_bar[-1])
        alpha_bar = [((math.sqrt(a) - last) * first / (first - last)) ** 2 for a in alpha_bar]
    return alpha_bar


def plain_element(d, t, a, loss):
    """One element's loss; a is alpha_bar."""
    if loss.type == "l2":
        return d * d
    if loss.type == "l1":
        return abs(d)
    c = loss.huber_c
    if loss.huber_schedule == "exponential":
        c = math.exp(t * math.log(c) / 1000)
    if loss.huber_schedule == "snr":
        sigma = math.sqrt((1 - a) / a) if a else math.inf
        c = (1 - c) / (1 + sigma) ** 2 + c
    c *= loss.huber_scale
    return (2 * c if loss.type == "huber" else 2) * (math.sqrt(d * d + c * c) - c)


def plain_weight(prediction, snr, loss):
    weight = 1.0
    own = {"epsilon": 1.0, "v_prediction": snr / (snr + 1), "sample": snr}[prediction]
    if loss.min_snr_gamma is not None:
        by = {"epsilon": snr, "v_prediction": snr + 1, "sample": 1}[prediction]
        weight *= min(snr, loss.min_snr_gamma) / by
    if loss.debiased:
        capped = min(snr, 1000)
        weight *= {"epsilon": 1 / math.sqrt(capped or 1e-3), "v_prediction": 1 / (capped + 1), "sample": capped**0.5}[
            prediction
        ]
    if loss.p2_gamma is not None:
        weight *= own / (loss.p2_k + snr) ** loss.p2_gamma
    capped = min(snr, 1000)
    if loss.scale_v_like_noise:
        weight *= capped / (capped + 1)
    if loss.v_like is not None:
        weight *= 1 + loss.v_like * (capped + 1) / capped
    return weight


@torch.no_grad()
def plain_loss(model, name, case, inputs, place):
    """One sample's loss: float64 but for the model's own answer."""
    options = options_of(case)
    prediction = "v_prediction" if name == "zero_snr" else name
    t = int(inputs.timesteps[place])
    a = plain_alpha_bar(is_zero=name == "zero_snr")[t]

    def of(tensor):
        return tensor[place].double().numpy()

    x_0 = of(inputs.mean) + of(inputs.std) * of(inputs.posterior_noise)
    eps = of(inputs.noise)
    if inputs.offset is not None:
        for channel in range(SHAPE[0]):
            strength = float(of(inputs.offset_strength).item())
            if options.noise.offset_adaptive:
                strength = max(0.0, strength + options.noise.offset_adaptive * abs(x_0[channel].mean()))
            eps[channel] = eps[channel] + strength * of(inputs.offset)[channel].item()
    seen = eps if inputs.perturbation is None else eps + of(inputs.perturbation)
    x_t = math.sqrt(a) * x_0 + math.sqrt(1 - a) * seen
    target = {
        "epsilon": eps,
        "v_prediction": math.sqrt(a) * eps - math.sqrt(1 - a) * x_0,
        "sample": x_0,
    }[prediction]
    cond = model.encode_prompt([inputs.captions[place]])
    answer = model.denoise(torch.from_numpy(x_t).float()[None], inputs.timesteps[place : place + 1], cond)
    total = 0.0
    for index, d in np.ndenumerate(answer[0].double().numpy() - target):
        mask = 1.0 if inputs.mask is None else float(inputs.mask[place, 0, index[1], index[2]])
        total += mask * plain_element(float(d), t, a, options.loss)
    return plain_weight(prediction, a / (1 - a), options.loss) * total / math.prod(SHAPE) * float(inputs.weights[place])


@pytest.mark.parametrize(("name", "case"), CASES, ids=str)
def test_the_loss_of_a_step_is_that_of_a_plain_loop(models, name, case):
    inputs = inputs_of(case)
    inputs = replace(inputs, timesteps=torch.cat([inputs.timesteps[:2], torch.tensor([999])]))
    expected = [plain_loss(models[name], name, case, inputs, place) for place in range(len(IDS))]
    found = losses(models[name], case, inputs).double().tolist()
    assert found == pytest.approx(expected, rel=2e-4, abs=1e-7)


@pytest.mark.parametrize(("name", "case"), CASES, ids=str)
def test_a_samples_loss_hangs_on_no_neighbour(models, name, case):
    together = losses(models[name], case, inputs_of(case))
    alone = torch.cat([losses(models[name], case, inputs_of(case, (own,))) for own in IDS])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-7)  # a batch is summed in another order


def test_every_option_changes_the_loss(models):
    plain = losses(models["epsilon"], {}, inputs_of({}))
    same = [case for case in EPSILON[1:] if torch.equal(losses(models["epsilon"], case, inputs_of(case)), plain)]
    assert same == []


@pytest.mark.parametrize("case", VELOCITY, ids=str)
def test_pure_noise_gives_no_nan(models, case):
    inputs = replace(inputs_of(case), timesteps=torch.full((3,), 999))
    assert losses(models["zero_snr"], case, inputs).isfinite().all()


def test_v_only_options_are_refused_for_a_model_of_noise(models):
    with pytest.raises(ConfigError, match="scale_v_like_noise is for models that predict v; this one predicts epsilon"):
        check_objective(options_of({"loss": {"scale_v_like_noise": True}}), models["epsilon"])


def test_noise_only_options_are_refused_for_a_model_of_v(models):
    with pytest.raises(ConfigError, match="v_like is for models that predict noise"):
        check_objective(options_of({"loss": {"v_like": 1.0}}), models["v_prediction"])


def test_a_distribution_with_nothing_in_the_range_is_refused(models):
    case = {
        "timesteps": {"distribution": "weights", "weights": [0, 1]},
        "train": {"max_timestep": 500},
    }
    with pytest.raises(ConfigError, match="has nothing between"):
        check_objective(options_of(case), models["epsilon"])


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ({}, "l2 of noise"),
        ({"loss": {"type": "huber", "min_snr_gamma": 5}}, "huber of noise, c 0.1 by snr, min-SNR gamma 5"),
        ({"noise": {"offset": 0.1, "offset_random": True}}, "l2 of noise; noise offset 0 to 0.1"),
        (
            {"timesteps": {"distribution": "logit_normal"}, "train": {"max_timestep": 500}},
            "l2 of noise; timesteps 0 to 499 logit-normal, mean 0, std 1",
        ),
    ],
)
def test_the_plan_says_what_is_chosen(models, case, text):
    assert describe_objective(options_of(case), models["epsilon"]) == text


def test_the_plan_warns_of_a_weighting_that_leaves_out_pure_noise(models):
    (note,) = objective_notes(options_of({"loss": {"min_snr_gamma": 5}}), models["zero_snr"])
    assert "leaves out the timestep of pure noise" in note
    assert objective_notes(options_of({"loss": {"debiased": True}}), models["zero_snr"]) == []
