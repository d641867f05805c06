"""Options of the objective together, drawn at random: from seed and sample id to the loss, by plain float64 loops."""

import math
import random

import numpy as np
import pytest
import torch

from sdtune.config.schema import CoreOptions
from sdtune.randomness import derive_generator
from sdtune.testing.models import open_tiny_sd1
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.method import Method
from sdtune.train.step.draws import Drawer
from sdtune.train.step.forward import StepInputs, TrainStep
from sdtune.train.step.objective import cumulated_shares, make_objective

SHAPE = (4, 8, 12)
IDS = ("a#0", "b#0", "c#1")
SEED, EPOCH = 5, 2
PREDICTIONS = ("epsilon", "v_prediction", "sample", "zero_snr")
BENT = {
    "huber_schedule": ("snr", "exponential", "constant"),
    "huber_c": (0.05, 0.1, 0.4),
    "huber_scale": (0.5, 1.0, 3.0),
}
WEIGHTS = (
    {},
    {"min_snr_gamma": 5.0},
    {"min_snr_gamma": 1.0},
    {"debiased": True},
    {"p2_gamma": 0.5},
    {"p2_gamma": 1.0, "p2_k": 3.0},
)
OFFSETS = (
    {},
    {"offset": 0.1},
    {"offset": 0.1, "offset_random": True},
    {"offset_adaptive": 0.3},
    {"offset": 0.05, "offset_adaptive": -0.2},
    {"offset": 0.2, "offset_random": True, "offset_adaptive": 0.1},
)
PYRAMIDS = ({}, {}, {"pyramid_levels": 3}, {"pyramid_levels": 8, "pyramid_discount": 0.7})
PERTURBATIONS = ({}, {}, {"perturbation": 0.1}, {"perturbation": 0.3, "perturbation_random": True})
TIMESTEPS = (
    {},
    {"distribution": "logit_normal", "mean": 0.5, "std": 0.7},
    {"distribution": "sigmoid"},
    {"distribution": "sigmoid", "slope": -6.0, "centre": 0.4},
    {"distribution": "weights", "weights": [1.0, 2.0, 5.0, 0.0]},
)
RANGES = ({}, {"min_timestep": 250}, {"max_timestep": 800}, {"min_timestep": 300, "max_timestep": 310})
SAMPLINGS = ("random", "once", "deterministic")


def draw_case(number):
    """Draw one value for every option."""
    draws = random.Random(number)
    name = PREDICTIONS[number % len(PREDICTIONS)]
    loss = {"type": draws.choice(("l2", "l1", "huber", "smooth_l1")), **draws.choice(WEIGHTS)}
    if loss["type"] in ("huber", "smooth_l1"):
        loss |= {option: draws.choice(values) for option, values in BENT.items()}
    own = {"epsilon": {"v_like": 0.5}, "sample": {}}.get(name, {"scale_v_like_noise": True})
    loss |= draws.choice(({}, own))
    return name, {
        "loss": loss,
        "noise": draws.choice(OFFSETS) | draws.choice(PYRAMIDS) | draws.choice(PERTURBATIONS),
        "timesteps": draws.choice(TIMESTEPS),
        "train": {**draws.choice(RANGES), "latent_sampling": draws.choice(SAMPLINGS)},
        "masked": draws.random() < 0.5,
    }


CASES = [draw_case(number) for number in range(60)]


class _Plain(Method):
    kind = "lora"

    def attach(self, model, seed):
        raise NotImplementedError

    export = attach


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tiny_sd1(tmp_path_factory.mktemp("model") / "tiny")

    def opened(name):
        model = open_tiny_sd1(path)
        model.prediction = "v_prediction" if name == "zero_snr" else name
        model.schedule = model.schedule.rescaled_to_zero_snr() if name == "zero_snr" else model.schedule
        return model

    return {name: opened(name) for name in PREDICTIONS}


def options_of(case):
    return CoreOptions.model_validate({name: value for name, value in case.items() if name != "masked"})


def latents(ids):
    """Mean and deviation of the VAE's answer, masks and weights, of samples by name."""
    places = [IDS.index(name) for name in ids]
    generator = torch.Generator().manual_seed(1)
    mean, std = torch.randn(2, len(IDS), *SHAPE, generator=generator)
    mask = torch.rand(len(IDS), 1, *SHAPE[1:], generator=generator)
    return mean[places], std.abs()[places], mask[places], torch.tensor([1.0, 0.5, 2.0])[places]


def found_losses(model, case, ids=IDS):
    options = options_of(case)
    mean, std, mask, weights = latents(ids)
    drawer = Drawer(
        seed=SEED,
        min_timestep=options.train.min_timestep,
        max_timestep=options.train.max_timestep,
        latent_sampling=options.train.latent_sampling,
        noise=options.noise,
        cumulated_shares=cumulated_shares(options, 1000),
    )
    draws = drawer.draw(EPOCH, ids, SHAPE)
    inputs = StepInputs(
        pixels=None,
        mean=mean,
        std=std,
        posterior_noise=draws.posterior_noise,
        noise=draws.noise,
        timesteps=draws.timesteps,
        captions=tuple(f"a photo {name}" for name in ids),
        cond=None,
        weights=weights,
        mask=mask if case["masked"] else None,
        offset=draws.offset,
        offset_strength=draws.offset_strength,
        perturbation=draws.perturbation,
    )
    with torch.no_grad():
        return TrainStep(model, _Plain(None), make_objective(options, model))(inputs)[0].double().tolist()


def normal(purpose, sample_id, shape, epoch=EPOCH):
    return torch.randn(shape, generator=derive_generator(SEED, purpose, epoch, sample_id)).double().numpy()


def uniform(purpose, sample_id):
    return float(torch.rand((), generator=derive_generator(SEED, purpose, EPOCH, sample_id)))


def plain_timestep(options, sample_id):
    """Walk along the shares of the timesteps until u of them are behind."""
    first, end, chosen = options.train.min_timestep, options.train.max_timestep, options.timesteps
    generator = derive_generator(SEED, "timestep", EPOCH, sample_id)
    even = int(torch.randint(first, end, (), generator=generator))
    if chosen.distribution == "uniform":
        return even
    u = (even - first + float(torch.rand((), dtype=torch.float64, generator=generator))) / (end - first)

    def below(s):  # the probability that sigmoid(mean + std z) is below s
        if not 0 < s < 1:
            return float(s >= 1)
        return (1 + math.erf((math.log(s / (1 - s)) - chosen.mean) / chosen.std / math.sqrt(2))) / 2

    def share(t):
        if chosen.distribution == "logit_normal":
            return below((t + 1) / 1000) - below(t / 1000)
        if chosen.distribution == "sigmoid":
            return 1 / (1 + math.exp(-chosen.slope * ((t + 0.5) / 1000 - chosen.centre)))
        return chosen.weights[t * len(chosen.weights) // 1000]

    behind, total = 0.0, sum(share(t) for t in range(first, end))
    for t in range(first, end):
        behind += share(t) / total
        if behind > u:
            return t
    return end - 1


def plain_enlarged(coarse, height, width):
    """Enlarge by straight lines between the middles of pixels."""
    rows, columns = coarse.shape[1:]

    def places(count, size):
        at = [min(max((k + 0.5) * size / count - 0.5, 0), size - 1) for k in range(count)]
        return [(int(x), min(int(x) + 1, size - 1), x - int(x)) for x in at]

    large = np.zeros((len(coarse), height, width))
    for y, (top, bottom, down) in enumerate(places(height, rows)):
        for x, (left, right, across) in enumerate(places(width, columns)):
            upper = coarse[:, top, left] * (1 - across) + coarse[:, top, right] * across
            lower = coarse[:, bottom, left] * (1 - across) + coarse[:, bottom, right] * across
            large[:, y, x] = upper * (1 - down) + lower * down
    return large


def plain_noise(options, sample_id):
    """The noise before an offset: plain, or a pyramid."""
    noise, levels = normal("noise", sample_id, SHAPE), options.noise.pyramid_levels
    if not levels:
        return noise
    generator = derive_generator(SEED, "pyramid", EPOCH, sample_id)
    for level in range(levels):
        ratio = (2 + 2 * float(torch.rand((), generator=generator))) ** level
        height, width = max(1, int(SHAPE[1] / ratio)), max(1, int(SHAPE[2] / ratio))
        coarse = torch.randn((1, SHAPE[0], height, width), generator=generator)[0].double().numpy()
        noise = noise + options.noise.pyramid_discount**level * plain_enlarged(coarse, *SHAPE[1:])
        if 1 in (height, width):
            break
    return noise / noise.std(ddof=1)


def plain_offset(options, sample_id, x_0):
    """How far each channel's noise is shifted, (C, 1, 1)."""
    noise = options.noise
    if not (noise.offset or noise.offset_adaptive):
        return np.zeros((SHAPE[0], 1, 1))
    strength = noise.offset * (uniform("offset_strength", sample_id) if noise.offset_random else 1)
    z = normal("offset", sample_id, (SHAPE[0], 1, 1))
    means = [abs(channel.mean()) for channel in x_0]
    return np.array([[[max(0.0, strength + noise.offset_adaptive * mean)]] for mean in means]) * z


def plain_latents(options, sample_id):
    sampling = options.train.latent_sampling
    (mean,), (std,), *_ = (tensor.double().numpy() for tensor in latents((sample_id,)))
    if sampling == "deterministic":
        return mean
    key, epoch = (sample_id.partition("#")[0], 0) if sampling == "once" else (sample_id, EPOCH)
    return mean + std * normal("posterior", key, SHAPE, epoch)


def plain_alpha_bar(t, *, is_zero):
    """alpha_bar of SD's schedule at a timestep; rescaled, by algorithm 1 of Lin et al. 2024."""
    roots, product = [], 1.0
    for k in range(1000):
        product *= 1 - (math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * k / 999) ** 2
        roots.append(math.sqrt(product))
    if is_zero:
        return ((roots[t] - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    return roots[t] ** 2


def plain_c(loss, t, a):
    """Huber's c at a timestep."""
    if loss.huber_schedule == "constant":
        return loss.huber_scale * loss.huber_c
    if loss.huber_schedule == "exponential":
        return loss.huber_scale * loss.huber_c ** (t / 1000)
    sigma = math.sqrt((1 - a) / a) if a else math.inf
    return loss.huber_scale * ((1 - loss.huber_c) / (1 + sigma) ** 2 + loss.huber_c)


def plain_error(loss, d, c):
    match loss.type:
        case "l2":
            return d * d
        case "l1":
            return abs(d)
        case "huber":
            return 2 * c * (math.sqrt(d * d + c * c) - c)
        case "smooth_l1":
            return 2 * (math.sqrt(d * d + c * c) - c)


def plain_weight(loss, prediction, snr):
    """The weight of a timestep: each paper's weight for the error in the noise, brought to the form of the model."""
    form = {"epsilon": 1.0, "v_prediction": snr / (snr + 1), "sample": snr}[prediction]
    weight = 1.0
    if loss.min_snr_gamma is not None:
        weight *= min(1.0, loss.min_snr_gamma / snr if snr else math.inf) * form
    if loss.debiased:
        held = min(max(snr, 1e-3), 1e3)
        table = {"epsilon": held**-0.5, "v_prediction": 1 / (min(snr, 1e3) + 1), "sample": held**0.5}
        weight *= table[prediction]
    if loss.p2_gamma is not None:
        weight *= form / (loss.p2_k + snr) ** loss.p2_gamma
    if loss.scale_v_like_noise:
        weight *= min(snr, 1e3) / (min(snr, 1e3) + 1)
    if loss.v_like is not None:
        weight *= 1 + loss.v_like * (1 + 1 / min(max(snr, 1e-3), 1e3))
    return weight


@torch.no_grad()
def plain_loss(model, name, case, sample_id):
    options, prediction = options_of(case), "v_prediction" if name == "zero_snr" else name
    t = plain_timestep(options, sample_id)
    a = plain_alpha_bar(t, is_zero=name == "zero_snr")
    x_0 = plain_latents(options, sample_id)
    eps = plain_noise(options, sample_id) + plain_offset(options, sample_id, x_0)
    share = options.noise.perturbation
    share *= uniform("perturbation_strength", sample_id) if options.noise.perturbation_random else 1
    seen = eps + share * normal("perturbation", sample_id, SHAPE)
    x_t = math.sqrt(a) * x_0 + math.sqrt(1 - a) * seen
    v = math.sqrt(a) * eps - math.sqrt(1 - a) * x_0
    cond = model.encode_prompt([f"a photo {sample_id}"])
    answer = model.denoise(torch.from_numpy(x_t).float()[None], torch.tensor([t]), cond)[0].double().numpy()
    difference = answer - {"epsilon": eps, "v_prediction": v, "sample": x_0}[prediction]
    _, _, mask, weight = latents((sample_id,))
    where = mask[0, 0].double().numpy() if case["masked"] else np.ones(SHAPE[1:])
    c = plain_c(options.loss, t, a)
    total = sum(
        float(where[y, x]) * plain_error(options.loss, float(d), c) for (_, y, x), d in np.ndenumerate(difference)
    )
    return float(weight) * plain_weight(options.loss, prediction, a / (1 - a)) * total / math.prod(SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), CASES, ids=range(len(CASES)))
def test_options_drawn_together_give_the_loss_of_plain_loops(models, name, case):
    expected = [plain_loss(models[name], name, case, sample_id) for sample_id in IDS]
    assert found_losses(models[name], case) == pytest.approx(expected, rel=2e-4, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), CASES, ids=range(len(CASES)))
def test_options_drawn_together_leave_samples_apart(models, name, case):
    alone = [found_losses(models[name], case, (sample_id,))[0] for sample_id in IDS]
    assert found_losses(models[name], case, IDS[::-1])[::-1] == pytest.approx(alone, rel=1e-5, abs=1e-7)


def values_of(section):
    return {(option, str(value)) for _, case in CASES for option, value in case[section].items()}


def test_every_option_is_drawn_with_more_than_one_value():
    drawn = {
        section: {option for option, _ in values_of(section)} for section in ("loss", "noise", "timesteps", "train")
    }
    known = CoreOptions()
    assert {section: set(type(getattr(known, section)).model_fields) - drawn[section] for section in drawn} == {
        "loss": set(),
        "noise": set(),
        "timesteps": set(),
        "train": set(type(known.train).model_fields) - {"min_timestep", "max_timestep", "latent_sampling"},
    }
