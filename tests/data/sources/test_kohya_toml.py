from pathlib import Path

import pytest

from sdtune.config.data import DataOptions
from sdtune.config.schema import CoreOptions
from sdtune.config.validation import ValidationOptions
from sdtune.data.index.building import build_index
from sdtune.data.index.regularization import find_sources
from sdtune.data.sources.kohya_options import expand_dataset_file
from sdtune.errors import ConfigError
from sdtune.testing.images import write_images


def expand(tmp_path, text, **options):
    (tmp_path / "set.toml").write_text(text, encoding="utf-8")
    data = {"path": tmp_path / "set.toml", **options.pop("data", {})}
    return expand_dataset_file(CoreOptions(data=data, **options))


def subsets(tmp_path, text, **options):
    return expand(tmp_path, text, **options)[0].data.subsets


def subset(tmp_path, lines):
    """Expand a file of one subset that says these lines."""
    text = "\n".join(['[[datasets]]', '[[datasets.subsets]]', 'image_dir = "a"', *lines])  # fmt: skip
    (found,) = subsets(tmp_path, text)
    return found


def test_other_places_are_left_as_they_are():
    options = CoreOptions(data=DataOptions(path=Path("images")))
    assert expand_dataset_file(options) == (options, ())


# Precedence


def test_a_subset_goes_before_its_dataset_and_that_before_general(tmp_path):
    found = subsets(
        tmp_path,
        """
        [general]
        keep_tokens = 1
        num_repeats = 1
        flip_aug = true
        batch_size = 2
        [[datasets]]
        keep_tokens = 2
        num_repeats = 2
        resolution = 512
          [[datasets.subsets]]
          image_dir = "a"
          num_repeats = 3
          [[datasets.subsets]]
          image_dir = "b"
        [[datasets]]
        resolution = [768, 640]
        batch_size = 1
          [[datasets.subsets]]
          image_dir = "c"
        """,
    )
    assert [(s.path.name, s.keep_tags, s.repeats, s.flip, s.resolution, s.batch_size) for s in found] == [
        ("a", 2, 3, True, "512", 2), ("b", 2, 2, True, "512", 2), ("c", 1, 1, True, "768x640", 1),
    ]  # fmt: skip


def test_what_the_file_leaves_open_is_as_the_run_says(tmp_path):
    (found,) = subsets(tmp_path, '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"', data={"flip": True})
    assert (found.flip, found.resolution, found.captions, found.buckets, found.batch_size) == (None,) * 5


def test_names_of_folders_say_no_repeats_and_none_in_them_is_read(tmp_path):
    write_images(tmp_path / "10_dog", 1)
    write_images(tmp_path / "10_dog/old", 1)
    options, _ = expand(tmp_path, f'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "{tmp_path / "10_dog"}"')
    index = build_index(options.data)
    assert [(record.name, record.subset.repeats) for record in index.images] == [("10_dog/00.png", 1)]
    assert "left out: 1 images in 10_dog/old, a folder inside" in index.notes


# Every option


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("num_repeats = 4", "repeats", 4),
        ('class_tokens = "zwx dog"', "class_text", "zwx dog"),
        ('class_tokens = "zwx dog"', "missing_captions", "class_text"),
        ('caption_extension = ".txt"', "captions", "txt"),
        ('caption_extension = ".caption"', "captions", "caption"),
        ("shuffle_caption = true", "shuffle_tags", True),
        ("keep_tokens = 2", "keep_tags", 2),
        ('keep_tokens_separator = "|||"', "keep_separator", "|||"),
        ('caption_prefix = "photo of"', "prefix", "photo of"),
        ('caption_suffix = "in snow"', "suffix", "in snow"),
        ("caption_dropout_rate = 0.1", "caption_dropout", 0.1),
        ("caption_dropout_every_n_epochs = 3", "caption_dropout_every_epochs", 3),
        ("caption_tag_dropout_rate = 0.2", "tag_dropout", 0.2),
        ("token_warmup_min = 2", "tag_warmup_min", 2),
        ("token_warmup_step = 100", "tag_warmup", 100),
        ("token_warmup_step = 0.25", "tag_warmup", 0.25),
        ("enable_wildcard = true", "wildcards", True),
        ("flip_aug = true", "flip", True),
        ("color_aug = true", "color", True),
        ("random_crop = true", "crop", "random"),
        ("random_crop = false", "crop", "center"),
        ("alpha_mask = true", "alpha_weight", True),
        ('conditioning_data_dir = "masks"', "mask_dir", Path("masks")),
        ('metadata_file = "meta.json"', "captions_json", Path("meta.json")),
    ],
)
def test_an_option_of_kohyas_is_one_of_ours(tmp_path, line, name, value):
    assert getattr(subset(tmp_path, [line]), name) == value


def test_buckets_of_a_dataset(tmp_path):
    (found,) = subsets(
        tmp_path,
        """
        [[datasets]]
        enable_bucket = true
        min_bucket_reso = 320
        max_bucket_reso = 960
        bucket_reso_steps = 32
        bucket_no_upscale = true
        [[datasets.subsets]]
        image_dir = "a"
        """,
    )
    buckets = found.buckets
    assert (buckets.min_px, buckets.max_px, buckets.step_px, buckets.no_upscale) == (320, 960, 32, True)


def test_options_that_are_one_for_all(tmp_path):
    options, _ = expand(
        tmp_path,
        """
        [general]
        caption_separator = ";"
        secondary_separator = ";;;"
        validation_split = 0.25
        [[datasets]]
        [[datasets.subsets]]
        image_dir = "a"
        """,
    )
    assert (options.data.tag_separator, options.data.secondary_separator) == (";", ";;;")
    assert options.validation.split == 0.25


def test_metadata_alone_is_a_list_of_images(tmp_path):
    write_images(tmp_path / "img", 2, caption=None)
    (tmp_path / "meta.json").write_text('{"img/00": {"caption": "a dog", "tags": "brown"}}')
    options, _ = expand(tmp_path, f'[[datasets]]\n[[datasets.subsets]]\nmetadata_file = "{tmp_path}/meta.json"')
    assert [record.caption for record in build_index(options.data).images] == ["a dog, brown"]


def test_paths_count_from_the_file_where_they_are_not_here(tmp_path):
    write_images(tmp_path / "img", 1)
    (found,) = subsets(tmp_path, '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "img"')
    assert found.path == tmp_path / "img"


# Regularization images


def test_one_folder_of_regularization_images_is_for_all(tmp_path):
    options, notes = expand(
        tmp_path,
        """
        [[datasets]]
          [[datasets.subsets]]
          image_dir = "a"
          [[datasets.subsets]]
          image_dir = "reg"
          is_reg = true
          class_tokens = "dog"
          num_repeats = 2
        """,
    )
    assert [own.path for own in options.data.subsets] == [Path("a")]
    assert (options.regularization.path, options.regularization.prompt) == (Path("reg"), "dog")
    assert any("take turns" in note for note in notes)


PAIRS = """
    [[datasets]]
      [[datasets.subsets]]
      image_dir = "cats"
      [[datasets.subsets]]
      image_dir = "reg/cat"
      is_reg = true
    [[datasets]]
      [[datasets.subsets]]
      image_dir = "dogs"
      [[datasets.subsets]]
      image_dir = "reg/dog"
      is_reg = true
      class_tokens = "dog"
"""


def test_several_folders_of_regularization_images_go_with_their_datasets(tmp_path):
    options, _ = expand(tmp_path, PAIRS)
    sources = find_sources(options.regularization, options.data)
    assert [(str(s.belongs_to), str(s.path), s.prompt) for s in sources] == [
        ("cats", "reg/cat", None), ("dogs", "reg/dog", "dog"),
    ]  # fmt: skip


def test_one_folder_of_regularization_images_stays_with_its_dataset(tmp_path):
    options, _ = expand(tmp_path, PAIRS[: PAIRS.rindex("      [[datasets.subsets]]")])
    assert options.regularization.path is None
    assert [own.regularization and own.regularization.path for own in options.data.subsets] == [Path("reg/cat"), None]


def test_regularization_images_whose_subset_is_not_clear_are_an_error(tmp_path):
    with pytest.raises(ConfigError, match="not clear which subset"):
        expand(tmp_path, PAIRS + '[[datasets.subsets]]\nimage_dir = "more"\n')


def test_regularization_images_in_both_places_are_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"regularization\.path is reg"):
        expand(tmp_path, PAIRS, regularization={"path": "reg"})


# What cannot be done is said


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["num_repeat = 2"], r"num_repeat: unknown option; did you mean 'num_repeats'\? \(dataset 1, subset 1\)"),
        (["resolution = 512"], r"resolution cannot stand in \[\[datasets\.subsets\]\]; move it to \[general\] or"),
        (["num_repeats = 0"], r"num_repeats = 0: Input should be greater than 0 \(dataset 1, subset 1\)"),
        (['num_repeats = "many"'], "num_repeats = 'many'"),
        (["caption_dropout_rate = 2"], "caption_dropout_rate = 2: Input should be less than or equal to 1"),
        (['caption_extension = ".tags"'], r"caption_extension '\.tags' is not read; rename"),
        (['face_crop_aug_range = "1,2"'], "face_crop_aug_range = '1,2' is not there in sdtune"),
        (["custom_attributes = {diff_output_preservation = true}"], "custom_attributes = .* is not there"),
        (['is_reg = "yes"'], "is_reg = 'yes'; write true or false"),
        (["is_reg = true"], "no subset to train on"),
    ],
)
def test_wrong_options_name_their_place(tmp_path, lines, message):
    with pytest.raises(ConfigError, match=message):
        subset(tmp_path, lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[datasets", "is not TOML"),
        ("", r"has no \[\[datasets\.subsets\]\]"),
        ("[[datasets]]", r"has no \[\[datasets\.subsets\]\]"),
        ("[[datasets]]\n[[datasets.subsets]]", "image_dir is missing"),
        ("[general]\nimage_dir = 'a'", r"image_dir cannot stand in \[general\]"),
        ("[[dataset]]", "dataset: unknown option; did you mean 'datasets'"),
        ("general = 3", r"\[general\] is 3, not a table"),
        ("datasets = 3", "is not a list of tables"),
        ("[general]\nresolution = '512'\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'", "is not a size"),
        (
            "[general]\nresolution = 500\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'",
            "resolution = '500'.*of 8",
        ),
        ("[general]\nnetwork_multiplier = 0.5\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'a'", "not there in"),
    ],
)
def test_wrong_files_are_errors(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        expand(tmp_path, text)


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        expand(tmp_path, "[general]\na = 1\n[[datasets]]\nb = 1\n[[datasets.subsets]]\nc = 1\nbatch_size = 1")
    assert len(caught.value.problems) == 4


def test_separators_that_differ_are_refused(tmp_path):
    text = '[[datasets]]\n' + "".join(
        f'[[datasets.subsets]]\nimage_dir = "{letter}"\ncaption_separator = "{letter}"\n' for letter in "ab"
    )  # fmt: skip
    with pytest.raises(ConfigError, match="caption_separator differs from subset to subset"):
        expand(tmp_path, text)


def test_two_ways_to_hold_images_out_are_refused(tmp_path):
    text = '[general]\nvalidation_split = 0.1\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"'
    with pytest.raises(ConfigError, match=r"validation_split is .* in the dataset file"):
        expand(tmp_path, text, validation=ValidationOptions(split=0.2))


@pytest.mark.parametrize("line", ["cache_info = true", 'resize_interpolation = "area"'])
def test_what_does_nothing_is_told(tmp_path, line):
    text = f'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\n{line}'
    assert any(f"{line.split()[0]} does nothing here" in note for note in expand(tmp_path, text)[1])
