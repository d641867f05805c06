"""Several processes: what each one's share is, how errors become one, how gradients are added up."""

import pytest
import torch

from sdtune.data.types import BatchPlan, Size, Visit
from sdtune.errors import ConfigError, DataError, PlatformError, StoppedError
from sdtune.train.inputs.source import share_batches
from sdtune.train.machine import ranks
from sdtune.train.machine.ranks import GradientSum, Ranks, find_ranks, join_errors

SIZES = [(1,), (4,), (3,), (2, 2), (1, 1, 1), (4, 4, 4), (3, 1, 4), (2, 1), (7, 7, 3), (1,) * 9]


def batches(sizes):
    return [
        BatchPlan(
            bucket=Size(64 * (1 + number), 64),
            visits=tuple(Visit(image=place, sample_id=f"{number}-{place}#0") for place in range(size)),
        )
        for number, size in enumerate(sizes)
    ]


def shares(sizes, size):
    return [share_batches(batches(sizes), Ranks(rank, size)) for rank in range(size)]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("sizes", SIZES)
def test_every_visit_is_exactly_one_processs(sizes, size):
    whole = [(batch.bucket, visit) for batch in batches(sizes) for visit in batch.visits]
    own = [(batch.bucket, visit) for share in shares(sizes, size) for batch in share for visit in batch.visits]
    assert own == whole


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("sizes", SIZES)
def test_shares_differ_by_one_visit_at_most_and_no_batch_is_empty_or_larger(sizes, size):
    found = shares(sizes, size)
    counts = [sum(len(batch.visits) for batch in share) for share in found]
    lengths = [len(batch.visits) for share in found for batch in share]
    assert max(counts) - min(counts) <= 1
    assert all(0 < length <= max(sizes) for length in lengths)


def test_whole_batches_stay_whole_where_they_can():
    assert shares((4, 4, 4, 4), 2) == [tuple(batches((4, 4, 4, 4))[:2]), tuple(batches((4, 4, 4, 4))[2:])]


def test_a_process_alone_has_everything():
    assert share_batches(batches((3, 2)), Ranks()) == tuple(batches((3, 2)))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_item_is_some_processs(size):
    assert sorted(item for rank in range(size) for item in Ranks(rank, size).share(range(7))) == list(range(7))


def test_a_process_alone_neither_waits_nor_sends():
    alone = Ranks()
    assert alone.gather("word") == ["word"]
    assert alone.any(True)
    assert not alone.any(False)


def test_the_place_is_what_the_launcher_said():
    found = find_ranks({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    assert (found.rank, found.size, found.local) == (5, 8, 1)
    assert find_ranks({"MASTER_PORT": "29500"}).size == 1


def test_a_launcher_that_starts_too_few_processes_is_told():
    with pytest.raises(ConfigError, match="asked for several processes and started one; start with: torchrun"):
        find_ranks({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})


def test_the_errors_of_all_processes_become_one():
    joined = join_errors([StoppedError("stopped"), DataError("a"), DataError("b"), DataError("a", hint="c")])
    assert isinstance(joined, DataError)
    assert [str(problem) for problem in joined.problems] == ["a", "b", "a; c"]


def test_the_same_error_in_all_processes_is_told_once():
    assert len(join_errors([StoppedError("stopped"), StoppedError("stopped")]).problems) == 1


@pytest.fixture
def others(monkeypatch):
    """What process 1 brings to each meeting with process 0; a RuntimeError is raised, as gloo does."""
    brought = []

    def meet(found, value):
        other = brought.pop(0)
        if isinstance(other, RuntimeError):
            raise other
        found[:] = [value, other]

    monkeypatch.setattr(ranks.distributed, "all_gather_object", meet)
    return brought


def test_all_bring_something_and_get_everything(others):
    others += ["b", False, True]
    two = Ranks(0, 2)
    assert (two.gather("a"), two.any(False), two.any(False)) == (["a", "b"], False, True)


def test_an_error_of_one_process_is_everybodys_and_told_once(others):
    others.append(DataError("damaged"))
    two = Ranks(0, 2)
    with pytest.raises(DataError, match="damaged") as caught:
        two.gather("a")
    assert two.fail(caught.value) is caught.value  # it meets nobody


def test_errors_of_both_processes_are_joined(others):
    others.append(DataError("b"))
    assert str(Ranks(0, 2).fail(DataError("a"))) == "a\nb"


def test_a_process_that_is_gone_is_told(others):
    others.append(RuntimeError("Connection closed by peer"))
    two = Ranks(0, 2)
    with pytest.raises(PlatformError, match="another process of this training has ended; its own message says why"):
        two.wait()
    assert str(two.fail(DataError("a"))) == "a"  # it meets nobody


@pytest.mark.parametrize("buffer_bytes", [1, 40, 10**6])
def test_gradients_of_all_shapes_and_dtypes_are_added_up(monkeypatch, buffer_bytes):
    monkeypatch.setattr(ranks, "_BUFFER_BYTES", buffer_bytes)
    monkeypatch.setattr(ranks.distributed, "all_reduce", lambda tensor: tensor.mul_(2))  # two processes that agree
    dtypes = [torch.float32, torch.float32, torch.bfloat16, torch.float32, torch.float32]
    parameters = [torch.nn.Parameter(torch.zeros(2, 3 + place, dtype=dtype)) for place, dtype in enumerate(dtypes)]
    for parameter in parameters[:3]:
        parameter.grad = torch.randn(3 + parameter.shape[1], 2).to(parameter.dtype)[3:].t()  # not contiguous
    wanted = [2 * parameter.grad for parameter in parameters[:3]]
    sums = GradientSum(Ranks(0, 2), parameters)
    sums.add_up([True, True, True, True, False])
    assert [torch.equal(own.grad, sum_) for own, sum_ in zip(parameters, wanted, strict=False)] == [True] * 3
    assert torch.equal(parameters[3].grad, torch.zeros(2, 6))
    assert sums.present() == [True, True, True, True, False]
