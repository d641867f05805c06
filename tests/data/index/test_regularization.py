from collections import Counter
from dataclasses import replace

import pytest
import torch

from sdtune.config.data import DataOptions
from sdtune.config.regularization import RegularizationOptions
from sdtune.config.subsets import SubsetOptions
from sdtune.data.batches import BatchBuilder
from sdtune.data.buckets.placing import place_images
from sdtune.data.captions.captioner import Captioner
from sdtune.data.index.building import build_index
from sdtune.data.index.missing import find_missing
from sdtune.data.index.regularization import find_sources, weight_at
from sdtune.data.order.plan import arrange, plan_epoch
from sdtune.data.tables.records import ImageTable
from sdtune.errors import DataError
from sdtune.testing.images import write_images


@pytest.fixture
def index(tmp_path):
    write_images(tmp_path / "data" / "2_zwx dog", 2, caption="a photo of a zwx dog")

    def index(**options):
        options = {"path": tmp_path / "reg", **options}
        return build_index(DataOptions(path=tmp_path / "data"), find_sources(RegularizationOptions(**options)))

    return index


def test_regularization_images_come_last_and_apart(tmp_path, index):
    write_images(tmp_path / "reg", 3, caption="a photo of a dog")
    found = index()
    assert [image.name for image in found.images][2:] == [f"regularization/{n:02d}.png" for n in range(3)]
    assert (len(found.instances), len(found.regularization), found.visits) == (2, 3, 4)


def test_names_never_clash_with_those_of_the_subject(tmp_path, index):
    write_images(tmp_path / "reg" / "2_zwx dog", 2)
    names = [image.name for image in index().images]
    assert len(set(names)) == 4


def test_a_caption_file_comes_before_the_prompt_and_the_prompt_before_the_folder(tmp_path, index):
    write_images(tmp_path / "reg" / "1_dog", 2, caption=None)
    (tmp_path / "reg" / "1_dog" / "00.txt").write_text("a brown dog")
    assert [image.caption for image in index().regularization] == ["a brown dog", "dog"]
    assert [image.caption for image in index(prompt="a dog").regularization] == ["a brown dog", "a dog"]


def test_without_any_caption_the_remedy_is_told(tmp_path, index):
    write_images(tmp_path / "reg", 2, caption=None)
    with pytest.raises(DataError, match=r"no caption for 2 of 2.*set regularization\.prompt"):
        index()


def test_folders_that_pair_with_none_belong_to_all(tmp_path, index):
    write_images(tmp_path / "reg" / "1_dog", 1)
    write_images(tmp_path / "reg" / "1_bird", 1)
    assert {subset.pairs_with for subset in index().subsets if subset.is_regularization} == {()}


def test_a_folder_pairs_with_the_training_folder_of_its_class(tmp_path, index):
    write_images(tmp_path / "reg" / "1_dog", 1)
    (subset,) = {image.subset for image in index().regularization}
    assert subset.pairs_with == ("2_zwx dog",)


def test_the_digest_knows_the_regularization(tmp_path, index):
    write_images(tmp_path / "reg", 1)
    digests = {build_index(DataOptions(path=tmp_path / "data")).digest}
    digests |= {index().digest, index(weight=0.5).digest, index(weight_end=0.5).digest, index(prompt="dog").digest}
    assert len(digests) == 4  # the caption file makes the prompt idle


def test_the_weight_goes_straight_from_the_first_to_the_last_epoch(tmp_path, index):
    write_images(tmp_path / "reg", 1)
    subset = index(weight=1, weight_end=0.2).regularization[0].subset
    assert [weight_at(subset, epoch, 5) for epoch in range(5)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert weight_at(replace(subset, weight_end=None), 4, 5) == 1
    assert weight_at(subset, 0, 1) == 1


def test_batches_mark_and_weigh_regularization_and_keep_its_captions(tmp_path, index):
    write_images(tmp_path / "reg", 4, caption="a photo of a dog")
    found, options = index(weight=0.25), DataOptions(path=tmp_path / "data", resolution="64")
    placements = place_images(found.images, options)
    captioner = Captioner(found, 1, method_captions=lambda text, subset: ("taught",))
    builder = BatchBuilder(found, placements, options, 1, captioner=captioner)
    plan = plan_epoch(1, 0, found.images, placements, 8)
    batch = builder.build(plan[0], 0)
    priors = torch.tensor(batch.is_regularization)
    assert priors.sum() == 4
    assert batch.weights[priors].tolist() == [0.25] * 4
    assert batch.weights[~priors].tolist() == [1] * 4
    assert {(text, prior) for text, prior in zip(batch.captions, batch.is_regularization, strict=True)} == {
        ("taught", False),
        ("a photo of a dog", True),
    }


def write_two_sizes(tmp_path):
    """Write two folders of which one has a resolution and batches of its own, and images of both classes."""
    write_images(tmp_path / "rex", 2, caption="a zwx dog")
    write_images(tmp_path / "tom", 3, caption="a cat")
    write_images(tmp_path / "reg" / "1_dog", 4, caption="a dog")
    write_images(tmp_path / "reg" / "1_cat", 2, caption="a cat")
    subsets = (
        SubsetOptions(path=tmp_path / "rex", class_word="dog", resolution="64"),
        SubsetOptions(path=tmp_path / "tom", class_word="cat", resolution="128", batch_size=2),
    )
    data = DataOptions(subsets=subsets, resolution="64")
    return build_index(data, find_sources(RegularizationOptions(path=tmp_path / "reg"), data))


def test_a_folder_pairs_by_the_class_word_of_the_training_folder(tmp_path):
    pairs = {subset.name: subset.pairs_with for subset in write_two_sizes(tmp_path).subsets if subset.is_regularization}
    assert pairs == {"regularization/1_cat": ("tom",), "regularization/1_dog": ("rex",)}


def test_regularization_comes_in_batches_of_the_folders_it_pairs_with(tmp_path):
    sizes = {subset.name: subset.batch_size for subset in write_two_sizes(tmp_path).subsets if subset.is_regularization}
    assert sizes == {"regularization/1_cat": 2, "regularization/1_dog": None}


def test_regularization_of_folders_of_several_resolutions_is_there_at_each(tmp_path):
    write_images(tmp_path / "small", 2)
    write_images(tmp_path / "large", 3)
    write_images(tmp_path / "reg", 4, caption="a dog")
    subsets = (
        SubsetOptions(path=tmp_path / "small", resolution="64"),
        SubsetOptions(path=tmp_path / "large", resolution="128"),
    )
    data = DataOptions(subsets=subsets, resolution="64")
    found = build_index(data, find_sources(RegularizationOptions(path=tmp_path / "reg"), data))
    assert Counter((own.subset.name, own.subset.pairs_with) for own in found.regularization) == {
        ("regularization/@64/reg", ("small",)): 4,
        ("regularization/@128/reg", ("large",)): 4,
    }
    assert len({image.name for image in found.images}) == len(found.images) == 13
    order = arrange(found.images, place_images(found.images, data), 2)
    assert {rotation.name: rotation.visits for rotation in order.rotations} == {"small": 2, "large": 3}


def test_a_folder_that_pairs_with_none_is_told(tmp_path, index):
    write_images(tmp_path / "reg" / "1_dog", 1)
    write_images(tmp_path / "reg" / "1_bird", 1)
    told = [note for note in index().notes if "training folder" in note]
    assert told == [
        "regularization: 1_bird: no training folder of that name or class, so all folders belong to all training images"
    ]


def test_a_folder_whose_name_says_nothing_belongs_to_all_without_a_word(tmp_path, index):
    write_images(tmp_path / "reg", 2)
    assert not [note for note in index().notes if "belong" in note]


def test_the_token_of_all_data_is_taken_out_of_captions(tmp_path):
    write_images(tmp_path / "data", 1, caption="a photo of a dog")
    write_images(tmp_path / "reg", 1, caption="a photo of a zwx dog")
    data = DataOptions(path=tmp_path / "data", token="zwx", class_word="dog")
    found = build_index(data, find_sources(RegularizationOptions(path=tmp_path / "reg"), data))
    assert [image.caption for image in found.images] == ["a photo of a zwx dog", "a photo of a dog"]


def test_images_of_a_folder_named_for_two_resolutions_are_drawn_for_once(tmp_path):
    write_images(tmp_path / "reg", 1, caption="a dog")
    write_images(tmp_path / "data", 3)
    source = find_sources(
        RegularizationOptions(path=tmp_path / "reg", prompt="a dog", generate={"per_image": 2}),
        data := DataOptions(path=tmp_path / "data", resolution="64"),
    )[0]
    found = build_index(data, [source])
    images = [*found.images, *(replace(image, name=f"@128/{image.name}") for image in found.images)]
    twice = replace(found, images=ImageTable.of(images))
    assert len(find_missing(source, twice, place_images(twice.images, data))) == 3 * 2 - 1
