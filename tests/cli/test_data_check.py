import json

import pytest
from PIL import Image

import sdtune_lora
from sdtune.testing.images import write_images
from sdtune.testing.runner import command


def run(*words):
    return command([sdtune_lora], "data", "check", *map(str, words))


@pytest.fixture
def photos(tmp_path):
    write_images(tmp_path / "photos" / "10_zwx dog", 6)
    return tmp_path / "photos"


def findings(capsys):
    return json.loads(capsys.readouterr().out)["findings"]


def test_it_shows_folders_repeats_and_captions(photos, capsys):
    assert run(photos, "data.resolution=64") == 0
    assert "10_zwx dog  10 x 6 images = 60 per epoch, 6 of 6 with captions" in capsys.readouterr().out


def test_what_a_run_would_refuse_gives_exit_code_3(photos, capsys):
    (photos / "10_zwx dog" / "03.txt").unlink()
    assert run(photos, "data.resolution=64") == 3
    out = capsys.readouterr().out
    assert "error  missing-caption  (1)" in out
    assert "10_zwx dog/03.png: no 03.txt beside it" in out
    assert "a run would not start" in out


def test_json_is_complete_and_stable(photos, capsys):
    (photos / "10_zwx dog" / "lost.txt").write_text("a dog")
    assert run(photos, "--json", "data.resolution=64") == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report) == ["format", "path", "folders", "counts", "findings"]
    assert report["folders"][0] == {
        "path": str(photos / "10_zwx dog"),
        "role": "training",
        "is_read": True,
        "images": 6,
        "captions": 6,
        "caption_source": "txt",
        "repeats": 10.0,
        "per_epoch": 60.0,
    }
    (orphan,) = [finding for finding in report["findings"] if finding["kind"] == "orphan-caption"]
    assert list(orphan) == ["kind", "severity", "place", "message", "why", "remedy", "script"]
    assert orphan["script"] == ["set_aside", str(photos / "10_zwx dog" / "lost.txt")]
    assert report["counts"]["warnings"] == sum(own["severity"] == "warning" for own in report["findings"])


def test_long_lists_are_cut_unless_all_is_asked_for(photos, capsys):
    for number in range(12):
        (photos / "10_zwx dog" / f"lost{number}.txt").write_text("a dog")
    run(photos, "data.resolution=64")
    assert "and 4 more; --all shows them" in capsys.readouterr().out
    run(photos, "--all", "data.resolution=64")
    assert "lost11.txt" in capsys.readouterr().out


def test_options_may_come_from_a_file(photos, tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text(f"data: {{path: '{photos}', resolution: 64}}\ntrain: {{batch_size: 100}}\n")
    run("--config", config, "--json")
    assert "starving-bucket" in {finding["kind"] for finding in findings(capsys)}


def test_a_first_word_may_be_an_option(photos, capsys):
    assert run(f"data.path={photos}", "data.resolution=64", "--json") == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(photos)


def test_without_images_named_it_says_so(capsys):
    assert run() == 2
    assert "data.path is not set" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_told(tmp_path, capsys):
    assert run(tmp_path / "nothing") == 3
    assert "no folder" in capsys.readouterr().err


def test_with_a_model_its_own_resolution_and_tokens_count(photos, capsys):
    assert run(photos, "--model", "demo") == 0
    assert "checked for 64x64 px, batches of 1; tokens are counted" in capsys.readouterr().out


def test_the_script_is_written_and_not_run(photos, tmp_path, capsys):
    lost = photos / "10_zwx dog" / "lost.txt"
    lost.write_text("a dog")
    assert run(photos, "--fix-script", tmp_path / "mend.sh", "data.resolution=64") == 0
    assert lost.exists()
    assert "set_aside './10_zwx dog/lost.txt'" in (tmp_path / "mend.sh").read_text()
    assert run(photos, "--fix-script", tmp_path / "mend.sh", "data.resolution=64") == 2


def test_subsets_regularization_and_validation_are_looked_at(tmp_path, capsys):
    write_images(tmp_path / "dogs", 6)
    write_images(tmp_path / "held", 2, caption="x")
    for number in range(2):
        Image.linear_gradient("L").resize((64, 64)).rotate(90 * number).save(tmp_path / "held" / f"0{number}.png")
    write_images(tmp_path / "reg" / "1_dog", 6, sizes=((64, 80),), caption=None)
    words = (f"data.subsets=[{{path: {tmp_path / 'dogs'}, repeats: 2.5}}]", "data.resolution=64")
    run(*words, f"regularization.path={tmp_path / 'reg'}", f"validation.path={tmp_path / 'held'}", "--json")
    folders = json.loads(capsys.readouterr().out)["folders"]
    assert [(own["role"], own["images"], own["repeats"]) for own in folders] == [
        ("training", 6, 2.5),
        ("regularization", 6, 1),
        ("validation", 2, 1),
    ]


def test_the_demo_images_are_fine(capsys):
    assert run("demo", "--model", "demo") == 0
    assert "error" not in capsys.readouterr().out
