"""Rows F40, F42, F43 and F47, as far as folders go: no caption shared, no file dropped silently, no empty data set."""

import pytest

import sdtune_lora
from sdtune.config.data import DataOptions
from sdtune.data.index.building import build_index
from sdtune.errors import DataError
from sdtune.testing.images import draw_picture, write_images
from sdtune.testing.runner import command


def write(folder, *names, caption="of {name}"):
    """Write pictures of different content, by name, each with a caption."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        kind = "PNG" if name.lower().endswith(".png") else "JPEG"
        draw_picture(seed=seed).save(folder / name, kind)
        (folder / name).with_suffix(".txt").write_text(caption.format(name=name), encoding="utf-8")


def index(path, **options):
    return build_index(DataOptions(path=path, **options))


def captions(path):
    return {record.path.name: record.caption for record in index(path).images}


@pytest.fixture
def plan(fault_model, tmp_path, capsys):
    """Plan a run on a folder by the real command; give its exit code, its output, and its one line of error."""

    def run(path, *more):
        words = (
            "plan",
            f"model.path={fault_model}",
            f"data.path={path}",
            "method=lora",
            "data.resolution=64",
            "log.forecast=false",
        )
        code = command([sdtune_lora], *words, "train.epochs=2", f"output.dir={tmp_path / 'run'}", *more)
        said = capsys.readouterr()
        errors = [line for line in said.err.splitlines() if line.startswith("error:")]
        assert "Traceback" not in said.err
        assert len(errors) == (code != 0)
        assert not (tmp_path / "run").exists()
        return code, said.out, "".join(errors)

    return run


# F40


def test_f40_captions_without_an_image_are_counted(tmp_path):
    write_images(tmp_path, 2)
    (tmp_path / "gone.txt").write_text("a dog that left")
    (tmp_path / "gone.caption").write_text("a dog that left")
    assert "ignored files: 1 .caption without an image, 1 .txt without an image" in index(tmp_path).notes


def test_f40_captions_in_folders_without_images_are_counted(tmp_path):
    write_images(tmp_path / "10_dog", 2)
    (tmp_path / "all.txt").write_text("a dog")
    assert "ignored files in folders without images: 1 captions" in index(tmp_path).notes


# F42


@pytest.mark.parametrize(
    "names", [("a.jpg", "a.png"), ("caf\u00e9.png", "cafe\u0301.png")], ids=["two suffixes", "two Unicode forms"]
)
def test_f42_images_that_would_share_a_caption_are_refused(tmp_path, names):
    write(tmp_path, *names)
    with pytest.raises(DataError, match="would share one caption file"):
        index(tmp_path)


def test_f42_a_dot_in_a_name_is_no_suffix(tmp_path):
    write(tmp_path, "a.b.jpg", "a.c.jpg")
    assert captions(tmp_path) == {"a.b.jpg": "of a.b.jpg", "a.c.jpg": "of a.c.jpg"}


def test_f42_names_that_differ_in_case_are_two_images_and_told(tmp_path):
    write(tmp_path, "A.jpg", "a.jpg")
    assert captions(tmp_path) == {"A.jpg": "of A.jpg", "a.jpg": "of a.jpg"}
    assert f"{tmp_path.name}: a.jpg stands there in 2 spellings" in index(tmp_path).notes


def test_f42_the_same_content_twice_is_told_and_each_has_its_caption(tmp_path):
    write(tmp_path, "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "b.txt").write_text("another text")
    assert captions(tmp_path) == {"a.png": "of a.png", "b.png": "another text"}
    assert "the same picture: a.png, b.png" in index(tmp_path).notes


def test_f42_the_same_folder_at_two_sizes_is_no_copy(tmp_path):
    write(tmp_path / "a", "a.png")
    entries = ({"path": tmp_path / "a"}, {"path": tmp_path / "a", "resolution": 128})
    notes = build_index(DataOptions(subsets=entries)).notes
    assert not any("the same picture" in note for note in notes)


# F43


def test_f43_suffixes_of_any_case_are_images(tmp_path):
    write(tmp_path, "a.JPG", "b.Png", "c.jfif", "d.JpEg")
    assert list(captions(tmp_path)) == ["a.JPG", "b.Png", "c.jfif", "d.JpEg"]


def test_f43_what_is_no_image_is_counted_by_reason(tmp_path):
    write(tmp_path / "set", "a.jpg")
    write(tmp_path / "set/nested/deeper", "b.jpg")
    write(tmp_path / "set/__MACOSX", "._a.jpg")
    for name in (".DS_Store", "._a.jpg", "Thumbs.db", "notes.md"):
        (tmp_path / "set" / name).write_text("x")
    found = index(tmp_path / "set")
    assert [record.name for record in found.images] == ["a.jpg", "nested/deeper/b.jpg"]
    assert "ignored files: 3 hidden, 2 other" in found.notes
    assert "left out: 1 images in __MACOSX, hidden" in found.notes


# F47


@pytest.mark.slow
def test_f47_an_empty_data_set_is_told(plan, tmp_path):
    (tmp_path / "set/10_dog").mkdir(parents=True)
    code, _, error = plan(tmp_path / "set")
    assert (code, "no images in" in error) == (3, True)


@pytest.mark.slow
def test_f47_one_image_is_a_data_set(plan, tmp_path):
    write_images(tmp_path / "set", 1)
    code, said, _ = plan(tmp_path / "set")
    assert code == 0
    assert "1 visits in batches of 1 = 1 batches an epoch" in said


@pytest.mark.slow
def test_f47_fewer_images_than_a_batch_are_a_data_set(plan, tmp_path):
    write_images(tmp_path / "set", 3)
    code, said, _ = plan(tmp_path / "set", "train.batch_size=8")
    assert code == 0
    assert "3 visits in batches of 8 = 1 batches an epoch, 1 a step = 1 steps; 2 steps = 2 epochs" in said


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("0_dog", 3), ("10_dog", 2)])
def test_f47_no_repeats_are_told(plan, tmp_path, name, code):
    write_images(tmp_path / "set" / name, 1)
    entry = [] if code == 3 else ["data.path=null", f"data.subsets=[{{path: {tmp_path / 'set' / name}, repeats: 0}}]"]
    got, _, error = plan(tmp_path / "set", *entry)
    assert (got, "repeats" in error) == (code, True)


@pytest.mark.slow
@pytest.mark.parametrize("level", ["work", "work/img", "work/img/10_zwx dog"])
def test_p1_a_run_begins_whichever_folder_is_named(plan, tmp_path, level):
    write_images(tmp_path / "work/img/10_zwx dog", 4)
    (tmp_path / "work/log").mkdir()
    (tmp_path / "work/model").mkdir()
    code, said, _ = plan(tmp_path / level)
    assert code == 0
    assert "images       4 (10_zwx dog: 4 x 10 repeats)" in said
    assert "40 visits in batches of 1 = 40 batches an epoch" in said


@pytest.mark.slow
def test_p1_many_folders_take_one_line(plan, tmp_path):
    for number in range(12):
        write_images(tmp_path / "set" / f"2_x{number}", 1)
    _, said, _ = plan(tmp_path / "set")
    (line,) = [line for line in said.splitlines() if line.startswith("images ")]
    assert line.count("x 2 repeats") == 7
    assert line.endswith("; and 5 more folders)")


@pytest.mark.slow
def test_p1_kohyas_dataset_file_is_a_place_too(plan, tmp_path):
    write_images(tmp_path / "dogs", 3)
    text = f'[[datasets]]\nbatch_size = 1\n[[datasets.subsets]]\nimage_dir = "{tmp_path / "dogs"}"\nnum_repeats = 4\n'
    (tmp_path / "my set.toml").write_text(text)
    code, said, _ = plan(tmp_path / "my set.toml")
    assert code == 0
    assert "run          my set-lora:" in said
    assert "images       3 (dogs: 3 x 4 repeats in batches of 1)" in said
    assert "note: my set.toml: no enable_bucket, so buckets are on as data.buckets says" in said
