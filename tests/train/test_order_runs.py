"""The order of a real run's inputs: the same for any number of workers and processes, and from wherever it goes on."""

from dataclasses import replace

import pytest
import torch

import sdtune_lora
from sdtune.config.compose import load
from sdtune.plugins import Registry
from sdtune.testing.images import write_images
from sdtune.train.assembly.assembling import assemble
from sdtune.train.inputs.source import InputSource
from sdtune.train.machine.ranks import Ranks
from sdtune.train.planning.plan import make_plan
from sdtune.train.run import run_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Parted repeats, two batch sizes, regularization, shuffled tags and steps of two batches; nothing is trained."""
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "dog", 5, sizes=((64, 64), (96, 48)), caption="dog {index}, a, b")
    write_images(folder / "cat", 4, caption="cat {index}, a, b")
    write_images(folder / "reg", 3, caption="animal {index}, a, b")
    registry = Registry.from_plugins([sdtune_lora])
    options = [
        "method=lora",
        "model.path=demo",
        f"data.subsets=[{{path: {folder / 'dog'}, repeats: 1.5}}, {{path: {folder / 'cat'}, batch_size: 3}}]",
        f"regularization.path={folder / 'reg'}",
        "data.resolution=64",
        "data.shuffle_tags=true",
        "data.flip=true",
        "train.batch_size=2",
        "train.gradient_accumulation=2",
        "train.epochs=3",
        "lora.rank=1",
        f"output.dir={folder / 'run'}",
    ]
    loaded = load(registry, overrides=options)
    return assemble(loaded, registry, run_folder(loaded.options))


def rows(run, workers=0, ranks=None, first=0):
    """Give what tells each sample of a run's steps from all others, in the order they are trained in."""
    options = run.options.model_copy(update={"data": run.options.data.model_copy(update={"workers": workers})})
    own = replace(run, options=options, ranks=ranks or Ranks())
    source, found = InputSource(own, latents=None, texts=None), []
    feed = source.feed(first)
    for step in range(first, run.timetable.steps):
        inputs = [next(feed) for _ in source.plan_step(step).own]
        samples = [(text, noise) for batch in inputs for text, noise in zip(batch.captions, batch.noise, strict=True)]
        found.append([(text, noise.sum().item()) for text, noise in samples])
    feed.close()
    return found


@pytest.fixture(scope="module")
def alone(run):
    return rows(run)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_order(run, alone, workers):
    assert rows(run, workers=workers) == alone


def test_two_processes_give_the_order_of_one(run, alone):
    shared = zip(*(rows(run, workers=2, ranks=Ranks(rank, 2)) for rank in range(2)), strict=True)
    assert [first + second for first, second in shared] == alone


@pytest.mark.parametrize("first", [1, 4, 7])
def test_a_run_that_goes_on_has_the_rest_of_the_order(run, alone, first):
    assert rows(run, first=first) == alone[first:]


def test_images_are_counted_as_they_come(run, alone):
    source = InputSource(run, latents=None, texts=None)
    counts = [source.images_before(step) for step in range(run.timetable.steps + 1)]
    assert counts == [sum(map(len, alone[:step])) for step in range(run.timetable.steps + 1)]


def test_the_first_batches_of_an_epoch_are_of_that_epoch(run, alone):
    table, seed = run.timetable, run.options.train.seed
    for epoch in range(table.epochs):
        first = alone[epoch * table.steps_per_epoch]
        planned = [visit for batch in run.order.plan(seed, epoch)[:2] for visit in batch.visits]
        assert len(first) == len(planned)
        names = [run.index.images[visit.image].caption.split(",")[0] for visit in planned]
        assert all(name in text for name, (text, _) in zip(names, first, strict=True))


def test_no_two_samples_of_an_epoch_have_the_same_noise(run, alone):
    noises = [noise for step in alone for _, noise in step]
    assert len(set(noises)) == len(noises)


def test_the_inputs_are_those_of_their_samples(run):
    """The noise of a sample hangs on its name and the epoch alone, whatever is in the batch with it."""
    source = InputSource(run, latents=None, texts=None)
    batch = run.order.plan(run.options.train.seed, 1).largest
    whole = source.inputs(1, batch).noise
    each = [source.inputs(1, replace(batch, visits=(visit,))).noise[0] for visit in batch.visits]
    assert torch.equal(whole, torch.stack(each))


def test_the_plan_tells_of_both_batch_sizes(run):
    facts = make_plan(run).facts
    assert facts["images"] == "9 (dog: 5 x 1.5 repeats; cat: 4 x 1 repeats in batches of 3)"
    assert " visits in batches of 3 or 2 = " in facts["steps"]


def test_the_plan_tells_what_processes_have_at_most(run):
    facts = make_plan(replace(run, ranks=Ranks(0, 2))).facts
    assert facts["processes"] == "2, visits of a step: up to 6 in all, up to 3 each"


def test_the_largest_batch_of_all_folders_is_foreseen(run):
    assert run.order.largest == ((64, 64), 3)
