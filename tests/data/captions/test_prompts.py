import pytest

from sdtune.config.data import DataOptions
from sdtune.config.regularization import RegularizationOptions
from sdtune.config.subsets import SubsetOptions
from sdtune.data.captions.prompts import class_text_of, fill_template, instance_text
from sdtune.data.index.building import build_index
from sdtune.data.index.regularization import find_sources
from sdtune.errors import ConfigError, DataError
from sdtune.testing.images import write_images


@pytest.mark.parametrize(
    ("text", "instance", "of_class"),
    [
        ("a photo of a zwx dog", "a photo of a zwx dog", "a photo of a dog"),
        ("a photo of a dog", "a photo of a zwx dog", "a photo of a dog"),
        ("a photo of zwx", "a photo of zwx", "a photo of dog"),
        ("in the snow", "zwx, in the snow", "dog, in the snow"),
    ],
    ids=["both", "class only", "token only", "neither"],
)
def test_the_eight_cases(text, instance, of_class):
    assert instance_text(text, "zwx", "dog") == instance
    assert class_text_of(text, "zwx", "dog") == of_class


def test_words_match_whole_and_in_either_case():
    assert instance_text("a Dog and a hotdog", "zwx", "dog") == "a zwx dog and a hotdog"
    assert class_text_of("ZWX, zwxy", "zwx", "dog") == "dog, zwxy"


def test_token_and_class_may_have_several_words():
    assert instance_text("a photo of a teddy bear", "zwx man", "teddy bear") == "a photo of a zwx man teddy bear"


@pytest.mark.parametrize(("token", "class_word"), [("zwx", ""), ("", "dog"), ("", "")])
def test_half_a_concept_puts_its_own_word_in_front(token, class_word):
    assert instance_text("in the snow", token, class_word) == ("zwx, in the snow" if token else "in the snow")
    assert class_text_of("in the snow", token, class_word) == ("dog, in the snow" if class_word else "in the snow")


def test_naming_twice_changes_nothing():
    once = instance_text("a photo of a dog", "zwx", "dog")
    assert instance_text(once, "zwx", "dog") == once
    assert class_text_of(class_text_of(once, "zwx", "dog"), "zwx", "dog") == "a photo of a dog"


def test_spaces_collapse_and_backslashes_go():
    assert instance_text(r"a  photo\, of a dog ", "", "") == "a photo, of a dog"


def test_filewords_is_the_images_own_caption():
    assert fill_template("painting of [filewords], oil", "a dog") == "painting of a dog, oil"
    assert fill_template(None, "a dog") == "a dog"


# In a data set


def test_each_subset_has_its_own_words(tmp_path):
    write_images(tmp_path / "rex", 1, caption="a dog on grass")
    write_images(tmp_path / "tom", 1, caption="sitting")
    subsets = (
        SubsetOptions(path=tmp_path / "rex", token="zwx", class_word="dog"),
        SubsetOptions(path=tmp_path / "tom", token="sks", class_word="cat", prompt="photo of a cat, [filewords]"),
    )
    found = build_index(DataOptions(subsets=subsets))
    assert [image.caption for image in found.images] == ["a zwx dog on grass", "photo of a sks cat, sitting"]


def test_all_folders_may_have_the_same_words(tmp_path):
    for name in ("rex", "tom"):
        write_images(tmp_path / name, 1, caption="a dog on grass")
    write_images(tmp_path / "dogs", 1, caption="a photo of a zwx dog")
    subsets = (SubsetOptions(path=tmp_path / "rex"), SubsetOptions(path=tmp_path / "tom", token="sks"))
    options = DataOptions(subsets=subsets, token="zwx", class_word="dog", prompt="photo of [filewords]")
    sources = find_sources(RegularizationOptions(path=tmp_path / "dogs"), options)
    assert [image.caption for image in build_index(options, sources).images] == [
        "photo of a zwx dog on grass",
        "photo of a sks dog on grass",
        "a photo of a dog",
    ]


def test_a_prompt_without_filewords_needs_no_captions(tmp_path):
    write_images(tmp_path / "rex", 2, caption=None)
    subset = SubsetOptions(path=tmp_path / "rex", prompt="a photo of a zwx dog")
    assert {image.caption for image in build_index(DataOptions(subsets=(subset,))).images} == {"a photo of a zwx dog"}


def test_a_subset_brings_the_images_of_its_own_class(tmp_path):
    for name in ("rex", "tom"):
        write_images(tmp_path / name, 1, caption="a photo")
    write_images(tmp_path / "dogs", 2, caption="a photo of a zwx dog")
    write_images(tmp_path / "cats", 3, caption=None)
    subsets = (
        SubsetOptions(path=tmp_path / "rex", token="zwx", class_word="dog", regularization={"path": tmp_path / "dogs"}),
        SubsetOptions(path=tmp_path / "tom", regularization={"path": tmp_path / "cats", "prompt": "a cat"}),
    )
    found = build_index(
        DataOptions(subsets=subsets), find_sources(RegularizationOptions(), DataOptions(subsets=subsets))
    )
    assert [(image.caption, image.subset.pairs_with) for image in found.regularization] == [
        *[("a photo of a dog", ("rex",))] * 2,
        *[("a cat", ("tom",))] * 3,
    ]


def test_two_folders_with_one_place_for_their_class_are_refused(tmp_path):
    own = {"prompt": "a dog", "per_image": 1}
    subsets = tuple(SubsetOptions(path=tmp_path / name, regularization=own) for name in ("rex", "tom"))
    with pytest.raises(ConfigError, match="named 2 times"):
        find_sources(RegularizationOptions(), DataOptions(subsets=subsets), lambda prompt: tmp_path / prompt)


def test_a_subset_without_captions_and_prompt_is_told_so(tmp_path):
    write_images(tmp_path / "rex", 1, caption=None)
    with pytest.raises(DataError, match="0 of 1 images"):
        build_index(DataOptions(subsets=(SubsetOptions(path=tmp_path / "rex", prompt="[filewords]"),)))
