"""What `schedule.jsonl` says, against what is trained."""

import json
from types import SimpleNamespace

import pytest

import sdtune_lora
from sdtune.config.data import DataOptions
from sdtune.data.buckets.placing import place_images
from sdtune.data.index.building import build_index
from sdtune.data.order.plan import arrange
from sdtune.errors import StoppedError
from sdtune.testing.images import write_images
from sdtune.testing.runner import resume_training, train
from sdtune.train.assembly.timetable import Timetable
from sdtune.train.inputs.schedule_file import write_schedule
from sdtune.train.saving.folder import RunFolder

PLUGINS = [sdtune_lora]


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "2_thing", 3, sizes=((64, 64), (96, 48)), caption="thing {index}, red, blue, größer")

    def make(output, *more):
        return [
            "method=lora",
            "model.path=demo",
            f"data.path={folder}",
            "data.resolution=64",
            "data.cache.latents=ram",
            "data.shuffle_tags=true",
            "data.caption_dropout=0.3",
            "data.write_schedule=true",
            f"output.dir={output}",
            "output.name=thing",
            "train.epochs=2",
            "train.batch_size=2",
            "train.gradient_accumulation=2",
            "lora.rank=1",
            "log.tensorboard=false",
            *more,
        ]

    return make


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "out"
    return train(PLUGINS, *options(output))


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.slow
def test_it_says_what_each_step_trains_by_which_caption(whole):
    schedule, table, order = lines(whole.folder.schedule), whole.timetable, whole.order
    assert [line["step"] for line in schedule] == list(range(1, table.steps + 1))
    plans = [order.plan(whole.options.train.seed, epoch) for epoch in range(2)]
    for line in schedule:
        planned = [plans[micro.epoch][micro.batch] for micro in table.micro_steps(line["step"] - 1)]
        assert [batch["bucket"] for batch in line["batches"]] == [str(batch.bucket) for batch in planned]
        told = [name for batch in line["batches"] for name, _ in batch["samples"]]
        assert told == [visit.sample_id for batch in planned for visit in batch.visits]
    texts = {text for line in schedule for batch in line["batches"] for _, text in batch["samples"]}
    assert {tuple(sorted(text.split(", "))) for text in texts if text} <= {
        tuple(sorted(("red", "blue", "größer", f"thing {number}"))) for number in range(3)
    }
    assert "" in texts


@pytest.mark.slow
def test_a_resumed_run_leaves_the_same_file(whole, options, tmp_path):
    with pytest.raises(StoppedError):
        train(PLUGINS, *options(tmp_path / "out"), stop_after=1)
    resume_training(PLUGINS, tmp_path / "out")
    assert (tmp_path / "out" / "schedule.jsonl").read_bytes() == whole.folder.schedule.read_bytes()


class _Source:
    """What a schedule asks of a run's inputs."""

    def __init__(self, order, caption="{}"):
        self._order, self._caption = order, caption

    def plan(self, micro):
        return micro.epoch, self._order.plan(1, micro.epoch)[micro.batch]

    def caption(self, visit, epoch, step):
        return self._caption.format(visit.sample_id)


@pytest.fixture
def run(tmp_path):
    write_images(tmp_path / "3_thing", 2, caption="thing")
    index = build_index(DataOptions(path=tmp_path / "3_thing"))
    order = arrange(index.images, place_images(index.images, DataOptions(resolution="64")), 4)
    table = Timetable(batches_per_epoch=order.batches, accumulation=1, steps=5)
    return SimpleNamespace(folder=RunFolder(tmp_path), timetable=table, order=order)


def write(run, first=0, caption="{}", on_step=lambda: None):
    return write_schedule(run, _Source(run.order, caption), first=first, on_step=on_step)


def test_each_step_is_a_line(run):
    found = lines(write(run))
    assert [(line["step"], line["epoch"]) for line in found] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)]
    samples = [sample for line in found[:2] for sample in line["batches"][0]["samples"]]
    assert sorted(samples) == sorted([name, name] for name in (f"{n:02d}.png#{r}" for n in range(2) for r in range(3)))


def test_lines_of_steps_that_are_done_stay(run):
    write(run)
    captions = [line["batches"][0]["samples"][0][1] for line in lines(write(run, first=2, caption="new"))]
    assert [text == "new" for text in captions] == [False, False, True, True, True]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:50], lambda data: b"", lambda data: data[: data.index(b"\n") + 9]]
)
def test_lines_that_are_lost_are_written_anew(run, damage):
    whole = write(run).read_bytes()
    run.folder.schedule.write_bytes(damage(whole))
    assert write(run, first=3).read_bytes() == whole


def test_a_stop_leaves_the_old_file(run):
    whole = write(run).read_bytes()

    def stop():
        raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        write(run, on_step=stop)
    assert run.folder.schedule.read_bytes() == whole
    assert not list(run.folder.path.glob(".sdtune-*"))


def test_a_name_that_is_no_text_is_written_all_the_same(run):
    assert lines(write(run, caption="\udcff"))[0]["batches"][0]["samples"][0][1] == "\udcff"
