import pytest

from sdtune.errors import ConfigError, PlatformError
from sdtune.train.saving.folder import RunFolder, find_run, remember_last
from sdtune.train.saving.lock import RunLock


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "one")
    folder.create(overwrite=False)
    folder.write_facts({"state": "done"})
    folder.config.write_text("method: lora\n")
    return folder


def test_an_existing_run_is_not_replaced_unasked(folder):
    with pytest.raises(ConfigError, match="--overwrite"):
        folder.create(overwrite=False)
    assert folder.read_facts() == {"state": "done"}


def test_overwrite_discards_a_run(folder):
    folder.create(overwrite=True)
    assert list(folder.path.iterdir()) == []


def test_overwrite_never_discards_what_is_no_run(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match="no run of sdtune"):
        RunFolder(tmp_path).create(overwrite=True)
    assert (tmp_path / "photo.jpg").exists()


def test_an_empty_folder_is_taken(tmp_path):
    RunFolder(tmp_path).create(overwrite=False)
    assert tmp_path.is_dir()


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(PlatformError, match="is a file"):
        RunFolder(tmp_path / "out").create(overwrite=True)


def test_a_second_process_cannot_have_the_run(folder):
    with RunLock(folder.path), pytest.raises(PlatformError, match="being trained by process"), RunLock(folder.path):
        pass


def test_a_lock_is_free_again_afterwards(folder):
    with RunLock(folder.path):
        pass
    with RunLock(folder.path):
        assert (folder.path / ".lock").exists()


def test_facts_are_changed_one_by_one(folder):
    folder.write_facts({"step": 3})
    assert folder.read_facts() == {"state": "done", "step": 3}


def test_a_run_is_found_by_path_name_and_last(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDTUNE_CACHE_DIR", str(tmp_path / "cache"))
    remember_last(folder)
    assert find_run(str(folder.path)).path == folder.path
    assert find_run("one").path.resolve() == folder.path
    assert find_run("last").path == folder.path


def test_a_missing_run_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no run 'nope'; give the folder"):
        find_run("nope")


def test_a_damaged_status_is_written_anew(folder, caplog):
    folder.facts.write_text("{")
    folder.write_facts({"step": 3})
    assert folder.read_facts() == {"step": 3}
    assert "is damaged" in caplog.text


def test_a_folder_of_a_run_that_was_killed_before_it_began_is_taken(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(overwrite=False)
    with RunLock(folder.path):
        folder.config.write_text("method: lora\n")
        (folder.path / ".sdtune-0123.tmp").touch()
    folder.create(overwrite=False)


def test_a_configuration_alone_is_not_taken_for_such_a_run(tmp_path):
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="no run of sdtune"):
        RunFolder(tmp_path).create(overwrite=True)


def test_a_run_that_is_trained_is_not_discarded(folder):
    with RunLock(folder.path), pytest.raises(PlatformError, match="being trained by process"):
        folder.create(overwrite=True)
    assert folder.read_facts() == {"state": "done"}
