"""`sdtune data cache`, `sdtune cache verify` and `sdtune cache prune` as a user meets them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import sdtune_lora
from sdtune.cli.main import run
from sdtune.cli.progress import ConsoleScreen
from sdtune.data.caches.tensor_store import list_shards
from sdtune.plugins import Registry
from sdtune.testing.images import write_images
from sdtune.testing.tiny import tiny_sd1


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sd1(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def words(model, tmp_path):
    write_images(tmp_path / "images", 4)
    return [
        *("--method", "lora", "--model", str(model), "--data", str(tmp_path / "images"), "--resolution", "64"),
        *("--output", str(tmp_path / "out"), f"data.cache.dir={tmp_path / 'cache'}", "lora.text_encoder=false"),
    ]


@pytest.fixture
def sdtune(capsys):
    def call(*words):
        code = run(words, Registry.from_plugins([sdtune_lora]))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def spoil(folder):
    (path,) = list_shards(folder)
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")


@pytest.mark.slow
def test_after_it_a_training_encodes_nothing(sdtune, words, tmp_path):
    code, out, _ = sdtune("data", "cache", *words)
    assert code == 0
    assert "latents: 4 in all, 0 were there, 4 encoded now" in out
    quick = ("--steps", "2", "output.certify=false", "log.forecast=false", "log.tensorboard=false")
    code, _, err = sdtune("train", *words, *quick)
    assert code == 0
    assert "caching" not in err
    assert not (tmp_path / "out" / "cache").exists()


@pytest.mark.slow
def test_dry_run_tells_what_is_missing_and_writes_nothing(sdtune, words, tmp_path):
    code, out, _ = sdtune("data", "cache", *words, "--dry-run", "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["latents"]["wanted"], facts["latents"]["missing"]) == (4, 4)
    assert facts["latents"]["missing_bytes"] == 4 * 2 * 4 * 4 * 8 * 8
    assert facts["text"]["missing"] == 4
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "out").exists()


def test_pictures_that_are_alike_are_counted_once(sdtune, words, tmp_path):
    (tmp_path / "images" / "01.png").write_bytes((tmp_path / "images" / "00.png").read_bytes())
    _, out, _ = sdtune("data", "cache", *words, "--dry-run")
    assert "latents: 3 in all, 0 were there, 3 missing" in out


def test_caches_that_are_not_on_disk_are_named(sdtune, words):
    _, out, _ = sdtune("data", "cache", *words, "data.cache.latents=ram", "lora.text_encoder=true")
    assert "latents: nothing is kept on disk: data.cache.latents is ram" in out
    assert "text: nothing is kept on disk: it changes while the run trains" in out


@pytest.mark.slow
def test_a_signal_stops_it_and_nothing_is_lost(sdtune, words, monkeypatch):
    shown = ConsoleScreen.caching

    def caching(self, what, done, count):
        shown(self, what, done, count)
        if (what, done) == ("latents", 2):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ConsoleScreen, "caching", caching)
    code, _, err = sdtune("data", "cache", *words)
    assert code == 75
    assert "stopped, what was encoded is kept; the same command goes on" in err
    monkeypatch.undo()
    code, out, _ = sdtune("data", "cache", *words)
    assert code == 0
    assert "latents: 4 in all, 2 were there, 2 encoded now" in out


@pytest.mark.slow
def test_two_processes_share_the_work(words, tmp_path):
    script = Path(__file__).parents[1] / "faults" / "train_here.py"
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    (tmp_path / "notes").mkdir()
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*torchrun, script, tmp_path / "notes", "data", "cache", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("latents: 4 in all, 0 were there, 4 encoded now") == 1
    assert len(list_shards(tmp_path / "cache" / "latents")) == 2


def test_verify_counts_drops_and_ends_well(sdtune, words, tmp_path):
    sdtune("data", "cache", *words)
    cache = tmp_path / "cache"
    assert sdtune("cache", "verify", "--dir", str(cache))[1].startswith("latents: 4 sound entries, ")
    spoil(cache / "text")
    code, out, err = sdtune("cache", "verify", "--dir", str(cache), "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["text"]["entries"], facts["text"]["damaged_entries"], facts["text"]["dropped"]) == (3, 1, True)
    assert "what was damaged is dropped" in err
    assert json.loads(sdtune("cache", "verify", "--dir", str(cache), "--json")[1])["text"]["damaged_entries"] == 0
    assert "text: 4 in all, 3 were there, 1 missing" in sdtune("data", "cache", *words, "--dry-run")[1]


def test_prune_shows_what_would_go_and_removes_it(sdtune, words, tmp_path):
    sdtune("data", "cache", *words)
    place = ("--dir", str(tmp_path / "cache"))
    assert sdtune("cache", "prune", *place)[1] == "nothing to remove\n"
    code, out, _ = sdtune("cache", "prune", *place, "--keep", "0GB", "--dry-run", "--json")
    assert code == 0
    assert [file["why"] for file in json.loads(out)["files"]] == ["room", "room"]
    assert len(list_shards(tmp_path / "cache" / "latents")) == 1
    assert sdtune("cache", "prune", *place, "--keep", "0GB")[1].startswith("removed: 2 files, ")
    assert list_shards(tmp_path / "cache" / "latents") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("prune", "--keep", "many"), "--keep 'many' is no size; write it like 20GB or 500MB"),
        (("verify", "--dir", "nowhere"), "no folder nowhere"),
        (("prune", "--dir", "nowhere"), "no folder nowhere"),
    ],
)
def test_mistakes_are_told_in_one_line(sdtune, words, said):
    code, _, err = sdtune("cache", *words)
    assert code == 2
    assert said in err
