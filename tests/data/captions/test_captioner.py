import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from sdtune.config.data import DataOptions
from sdtune.config.regularization import RegularizationOptions
from sdtune.config.subsets import SubsetOptions
from sdtune.data.captions.captioner import Captioner
from sdtune.data.index.building import build_index
from sdtune.data.index.regularization import find_sources
from sdtune.data.types import Visit
from sdtune.testing.images import write_images

EVERYTHING = {
    "caption_lines": "draw",
    "wildcards": True,
    "token": "zwx",
    "class_word": "dog",
    "prefix": "best,",
    "suffix": ", {pt1:1.2}",
    "words": {"pt1": "sharp"},
    "shuffle_tags": True,
    "keep_tags": 1,
    "keep_separator": "|||",
    "secondary_separator": ";;;",
    "tag_dropout": 0.2,
    "tag_warmup": "50%",
    "tag_warmup_min": 2,
    "caption_dropout": 0.1,
    "caption_dropout_every_epochs": 4,
}


def verbatim(text):
    """Write braces so that `write_images` puts none of its numbers in."""
    return text.replace("{", "{{").replace("}", "}}")


@pytest.fixture
def everything(tmp_path):
    """Give a data set in which all that is done to captions is done."""
    text = "a dog ||| {red|blue}, on grass, {{x}}, a;;;b\na {big|small} puppy, b, c"
    write_images(tmp_path / "dogs", 3, caption=verbatim(text))
    (tmp_path / "lines.txt").write_text("a photo of [name], [filewords]\n{caption}\n{class} {caption:0.8}")
    return build_index(DataOptions(path=tmp_path / "dogs", templates=tmp_path / "lines.txt", **EVERYTHING))


def visits(count):
    return [(Visit(image=n % 3, sample_id=f"{n % 3:02d}.png#{n}"), n % 7, n % 50) for n in range(count)]


def test_a_caption_hangs_on_nothing_but_its_visit(everything):
    captioner = Captioner(everything, 1, steps=40, keeps_brackets=True)
    jobs = visits(300)
    straight = [captioner.caption(*job) for job in jobs]
    order = random.Random(0).sample(range(300), 300)
    shuffled = {place: captioner.caption(*jobs[place]) for place in order}
    with ThreadPoolExecutor(3) as pool:
        threaded = list(pool.map(lambda job: captioner.caption(*job), jobs))
    again = Captioner(everything, 1, steps=40, keeps_brackets=True)
    assert straight == [shuffled[place] for place in range(300)] == threaded == [again.caption(*job) for job in jobs]
    assert len(set(straight)) > 150


def test_another_seed_draws_other_captions(everything):
    first, second = ([Captioner(everything, seed).caption(*job) for job in visits(60)] for seed in (1, 2))
    assert sum(one == other for one, other in zip(first, second, strict=True)) < 30


def test_the_token_is_in_every_caption_that_is_not_dropped(everything):
    texts = [Captioner(everything, 1, steps=40).caption(*job) for job in visits(300)]
    assert all("zwx" in text for text in texts if text)
    assert not any(letter in text for text in texts for letter in ("|||", ";;;", "pt1", "\n", "|"))


def test_measured_captions_are_whole(everything):
    captioner = Captioner(everything, 1, steps=40, is_calm=True)
    texts = [captioner.caption(*job) for job in visits(100)]
    assert all("sharp" in text and text for text in texts)
    assert captioner.fixed() is not None
    assert set(texts) <= set(captioner.fixed())


def test_each_folder_has_its_own_rules(tmp_path):
    for name in ("one", "two", "three"):
        write_images(tmp_path / name, 1, caption="a, b, c, d, e")
    subsets = (
        SubsetOptions(path=tmp_path / "one", shuffle_tags=True, keep_tags=1),
        SubsetOptions(path=tmp_path / "two", prefix="zwx,", caption_dropout=0.5),
        SubsetOptions(path=tmp_path / "three", caption_dropout_every_epochs=1),
    )
    captioner = Captioner(build_index(DataOptions(subsets=subsets)), 1)
    seen = [{captioner.caption(Visit(image=n, sample_id=f"{k}"), 0) for k in range(40)} for n in range(3)]
    assert len(seen[0]) > 15
    assert seen[1:] == [{"zwx, a, b, c, d, e", ""}, {""}]
    assert captioner.fixed() is None


def test_captions_are_fixed_where_no_folder_changes_them(tmp_path):
    for name in ("one", "two"):
        write_images(tmp_path / name, 1, caption=verbatim("{a|b}"))
    subsets = (SubsetOptions(path=tmp_path / "one", wildcards=True), SubsetOptions(path=tmp_path / "two"))
    assert Captioner(build_index(DataOptions(subsets=subsets)), 1).fixed() == ("a", "b", "{a|b}")
    dropping = (*subsets[:1], SubsetOptions(path=tmp_path / "two", caption_dropout=0.1))
    assert Captioner(build_index(DataOptions(subsets=dropping)), 1).fixed() == ("a", "b", "{a|b}", "")


@pytest.mark.parametrize(
    "option",
    [{"shuffle_tags": True}, {"tag_dropout": 0.1}, {"tag_warmup": 5}, {"tag_warmup": "50%"}, {"tag_warmup": 0.1}],
)
def test_captions_whose_tags_change_are_not_fixed(tmp_path, option):
    write_images(tmp_path, 1, caption="a, b")
    index = build_index(DataOptions(path=tmp_path, **option))
    assert Captioner(index, 1, steps=100).fixed() is None


def test_images_of_the_class_keep_their_own_words(tmp_path):
    write_images(tmp_path / "own", 1, caption="a dog, red, blue")
    write_images(tmp_path / "class", 1, caption="a dog, one, two")
    (tmp_path / "lines.txt").write_text("photo of [name]")
    words = {"prompt": "[filewords]", "token": "zwx", "class_word": "dog", "prefix": "best,", "suffix": "x"}
    options = DataOptions(path=tmp_path / "own", templates=tmp_path / "lines.txt", shuffle_tags=True, **words)
    sources = find_sources(RegularizationOptions(path=tmp_path / "class"))
    captioner = Captioner(build_index(options, sources), 1, method_captions=lambda text, subset: (f"<{text}>",))
    seen = [{captioner.caption(Visit(image=n, sample_id=f"{k}"), 0) for k in range(60)} for n in range(2)]
    assert seen[0] == {"<photo of zwx>"}
    assert len(seen[1]) == 6
    assert all(sorted(text.split(", ")) == ["a dog", "one", "two"] for text in seen[1])
