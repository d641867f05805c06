from sdtune.testing.runner import command


def test_it_makes_exactly_three_folders(tmp_path, capsys):
    assert command([], "data", "new", str(tmp_path / "my dog")) == 0
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "my dog",
        "my dog/img",
        "my dog/log",
        "my dog/model",
    ]
    assert f"sdtune data check '{tmp_path / 'my dog' / 'img'}'" in capsys.readouterr().out


def test_what_is_there_stays_as_it_is(tmp_path, capsys):
    (tmp_path / "dog").mkdir()
    assert command([], "data", "new", str(tmp_path / "dog")) == 2
    assert list((tmp_path / "dog").iterdir()) == []
    assert "is there already" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert command([], "data", "new", str(tmp_path / "file" / "dog")) == 5
    assert "cannot make" in capsys.readouterr().err
