"""The loss as data options shape it: from image, mask and caption files to each sample's loss, read again by hand."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import sdtune_lora
from sdtune.config.compose import load
from sdtune.plugins import Registry
from sdtune.randomness import derive_generator, derive_seed
from sdtune.testing.images import draw_picture, write_images
from sdtune.testing.runner import train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.assembly.assembling import assemble
from sdtune.train.inputs.source import open_source
from sdtune.train.saving.folder import RunFolder
from sdtune.train.step.forward import TrainStep
from sdtune.train.step.objective import make_objective

pytestmark = pytest.mark.slow

EPOCHS, SEED = 3, 4
WEIGHTS = {"dog": 0.5, "cat": 2.0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Dogs with masks, cats of which one is half transparent, and regularization images."""
    root = tmp_path_factory.mktemp("data")
    tiny_sd1(root / "model")
    write_images(root / "dog", 2, caption="a photo of a dog {index}")
    write_images(root / "cat", 2, caption="a cat, {index}")
    write_images(root / "reg", 2, caption="an animal")
    (root / "masks").mkdir()
    for number, path in enumerate(sorted((root / "dog").glob("*.png"))):
        draw_picture((64, 64), seed=20 + number).convert("L").save(root / "masks" / path.name)
    picture = draw_picture((64, 64), seed=9)
    picture.putalpha(picture.convert("L").point(lambda value: 255 * (value > 99)))
    picture.save(root / "cat" / "01.png")
    return root


def common(root, output):
    return [
        "method=lora",
        f"model.path={root / 'model'}",
        "data.resolution=64",
        "data.cache.latents=ram",
        f"output.dir={output}",
        "output.name=x",
        "lora.rank=2",
        "log.tensorboard=false",
        f"train.seed={SEED}",
    ]


@pytest.fixture(params=[True, False], ids=["normalised", "as it is"])
def case(request, root, tmp_path):
    """A run that is ready, and whether its masks are divided by their means."""
    subsets = [
        f"{{path: '{root / 'dog'}', weight: {WEIGHTS['dog']}, mask_dir: '{root / 'masks'}'}}",
        f"{{path: '{root / 'cat'}', weight: {WEIGHTS['cat']}}}",
    ]
    more = (
        f"data.subsets=[{', '.join(subsets)}]",
        f"regularization.path={root / 'reg'}",
        "regularization.weight=0.8",
        "regularization.weight_end=0.2",
        "data.alpha_weight=true",
        "data.mask.unmasked_weight=0.25",
        f"data.mask.normalise={str(request.param).lower()}",
        "data.caption_dropout=0.4",
        f"train.epochs={EPOCHS}",
        "train.batch_size=2",
        "loss.type=l1",
    )
    registry = Registry.from_plugins([sdtune_lora])
    loaded = load(registry, overrides=[*common(root, tmp_path / "out"), *more])
    return assemble(loaded, registry, RunFolder(tmp_path / "out")), request.param


def plain_mask(root, folder, stem, *, is_normalised):
    """Averages over squares of 8 px, between the unmasked weight and 1."""
    if folder == "reg" or (folder == "cat" and stem == "00"):
        values = np.full((64, 64), 255.0)
    elif folder == "cat":
        values = np.asarray(Image.open(root / "cat" / f"{stem}.png").getchannel("A"), dtype=float)
    else:
        values = np.asarray(Image.open(root / "masks" / f"{stem}.png"), dtype=float)
    small = np.array([[values[y : y + 8, x : x + 8].mean() for x in range(0, 64, 8)] for y in range(0, 64, 8)])
    if not is_normalised:
        return 0.25 + 0.75 * small / 255
    if small.min() == small.max():
        return np.ones((8, 8))
    weights = 0.25 * 255 + 0.75 * (small - small.min())
    return weights / weights.mean()


def plain_pixels(path):
    picture = Image.open(path).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return torch.from_numpy(np.asarray(flat, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]


def normal(purpose, epoch, sample_id):
    return torch.randn((4, 8, 8), generator=derive_generator(SEED, purpose, epoch, sample_id))


@torch.no_grad()
def plain_loss(run, root, epoch, sample_id, *, is_normalised):
    name = sample_id.partition("#")[0]
    folder = next(folder for folder in ("dog", "cat", "reg") if folder in name)
    path = root / folder / name.rpartition("/")[2]
    posterior = run.model.encode_images(plain_pixels(path))
    x_0 = posterior.mean[0] + posterior.std[0] * normal("posterior", epoch, sample_id)
    eps = normal("noise", epoch, sample_id)
    t = torch.randint(0, 1000, (1,), generator=derive_generator(SEED, "timestep", epoch, sample_id))
    a = float(run.model.schedule.alpha_bar[t])
    is_dropped = derive_seed(SEED, "caption_dropout", epoch, sample_id) / 2**63 < 0.4
    caption = "" if is_dropped else path.with_suffix(".txt").read_text(encoding="utf-8")
    answer = run.model.denoise((a**0.5 * x_0 + (1 - a) ** 0.5 * eps)[None], t, run.model.encode_prompt([caption]))
    mask = plain_mask(root, folder, path.stem, is_normalised=is_normalised)
    error = (answer[0] - eps).abs().double().numpy() * mask
    weight = WEIGHTS.get(folder, 0.8 + (0.2 - 0.8) * epoch / (EPOCHS - 1))
    return weight * error.mean()


def test_masks_weights_and_dropped_captions_are_those_of_the_files(case, root):
    run, is_normalised = case
    source = open_source(run, preview_texts=(), on_progress=lambda *_: None)
    run.model.load("vae")
    step = TrainStep(run.model, run.method, make_objective(run.options, run.model)).eval()
    found, expected, captions = {}, {}, set()
    for number in range(run.timetable.steps):
        ((epoch, plan),) = [source.plan(micro) for micro in run.timetable.micro_steps(number)]
        inputs, ids = source.inputs(epoch, plan), [visit.sample_id for visit in plan.visits]
        captions |= set(inputs.captions)
        with torch.no_grad():
            losses = step(inputs)[0].tolist()
        for sample_id, loss in zip(ids, losses, strict=True):
            found[epoch, sample_id] = loss
            expected[epoch, sample_id] = plain_loss(run, root, epoch, sample_id, is_normalised=is_normalised)
    assert found == pytest.approx(expected, rel=1e-4)
    assert {epoch for epoch, _ in found} == set(range(EPOCHS))
    assert "" in captions
    assert len(captions) > 3


@pytest.mark.parametrize("batches", [2, 4])
def test_batches_that_are_added_up_are_one_batch(root, tmp_path, batches):
    def first_step(name, size, count):
        output = tmp_path / name
        # In 64 px the last level is one pixel, where norms have two numbers to a group and rounding changes gradients.
        sizes = (
            "data.resolution=96",
            f"train.batch_size={size}",
            f"train.gradient_accumulation={count}",
            "train.steps=1",
        )
        shaped = ("noise.offset=0.1", "noise.pyramid_levels=4", "loss.min_snr_gamma=5", "loss.type=huber")
        folders = f"data.subsets=[{{path: '{root / 'dog'}', weight: 3}}, {{path: '{root / 'cat'}'}}]"
        train([sdtune_lora], *common(root, output), *sizes, *shaped, folders, "data.alpha_weight=true")
        line = json.loads((output / "metrics.jsonl").read_text())
        return line["loss"], line["grad_norm"], line["images_seen"]

    together, apart = first_step("one", 4, 1), first_step("several", 4 // batches, batches)
    assert apart == pytest.approx(together, rel=1e-5)
