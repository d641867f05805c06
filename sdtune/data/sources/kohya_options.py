"""What a kohya dataset file says, in options of sdtune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sdtune.config.subsets import SubsetOptions, SubsetRegularizationOptions
from sdtune.data.sources.kohya_toml import read_kohya_toml
from sdtune.errors import ConfigError, Problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdtune.config.data import DataOptions
    from sdtune.config.regularization import RegularizationOptions
    from sdtune.config.schema import CoreOptions
    from sdtune.config.validation import ValidationOptions
    from sdtune.data.sources.kohya_toml import KohyaSubset

_NAMES = {
    "num_repeats": "repeats",
    "class_tokens": "class_text",
    "batch_size": "batch_size",
    "shuffle_caption": "shuffle_tags",
    "keep_tokens": "keep_tags",
    "keep_tokens_separator": "keep_separator",
    "caption_prefix": "prefix",
    "caption_suffix": "suffix",
    "caption_dropout_rate": "caption_dropout",
    "caption_dropout_every_n_epochs": "caption_dropout_every_epochs",
    "caption_tag_dropout_rate": "tag_dropout",
    "token_warmup_min": "tag_warmup_min",
    "token_warmup_step": "tag_warmup",
    "enable_wildcard": "wildcards",
    "flip_aug": "flip",
    "color_aug": "color",
    "alpha_mask": "alpha_weight",
    "conditioning_data_dir": "mask_dir",
}
_BUCKET_NAMES = {
    "enable_bucket": "enabled",
    "min_bucket_reso": "min_px",
    "max_bucket_reso": "max_px",
    "bucket_reso_steps": "step_px",
    "bucket_no_upscale": "no_upscale",
}
_SHARED_NAMES = {"caption_separator": "tag_separator", "secondary_separator": "secondary_separator"}
_CAPTIONS = {".txt": "txt", "txt": "txt", ".caption": "caption", "caption": "caption"}
_UNUSED = {
    "cache_info": "what is read of folders is remembered anyway",
    "resize_interpolation": "sdtune chooses how to resize",
    "validation_seed": "the content of images decides which are held out",
}
_REFUSED: Mapping[str, tuple[Any, str]] = {
    "network_multiplier": (1, "remove it; weight in data.subsets weighs the loss of a folder"),
    "face_crop_aug_range": (None, "remove it; data.crop=face cuts around faces"),
    "custom_attributes": ({}, "remove it"),
}


def expand_dataset_file(options: CoreOptions) -> tuple[CoreOptions, tuple[str, ...]]:
    """Put what kohya's dataset file in `data.path` says in its place; without one, nothing changes.

    What the file leaves open is as the run's own options say, as the command line's are for kohya's scripts.

    Returns:
        Options with `data.subsets` instead of the file, and notes on what does nothing here.

    Raises:
        ConfigError: It is no such file, or asks for what sdtune does not have: all of it together.
    """
    path = options.data.path
    if path is None or path.suffix.lower() != ".toml":
        return options, ()
    found, problems = read_kohya_toml(path), Problems(ConfigError)
    for subset in found:
        _refuse(subset, problems)
    subjects = [subset for subset in found if not subset.is_regularization]
    others = [subset for subset in found if subset.is_regularization]
    if not subjects:
        problems.add(f"{path} has no subset to train on", hint="give one without is_reg")
    subsets = list[SubsetOptions]()
    for subset in subjects:
        with problems.collect():
            subsets.append(_subset(subset, options.data))
    problems.raise_if_any()
    parts: dict[str, Any] = {}
    with problems.collect():
        parts["regularization"], subsets = _regularization(options.regularization, others, subjects, subsets)
    with problems.collect():
        parts["validation"] = _validation(options.validation, subjects)
    with problems.collect():
        source = {"path": None, "subsets": tuple(subsets), **_shared(subjects, options.data)}
        parts["data"] = options.data.model_copy(update=source)
    problems.raise_if_any()
    return options.model_copy(update=parts), tuple(f"{path.name}: {note}" for note in _notes(found, options.data))


def _refuse(subset: KohyaSubset, problems: Problems) -> None:
    """Refuse what would change the training and is not there."""
    for name, (harmless, hint) in _REFUSED.items():
        value = subset.values.get(name, harmless)
        if value != harmless:
            problems.add(f"{name} = {value!r:.40} is not there in sdtune", hint=hint, where=subset.place)


def _subset(subset: KohyaSubset, data: DataOptions) -> SubsetOptions:
    """Put one training subset into options; kohya takes no repeats from names, and enters no folders, here."""
    values = subset.values
    own = {ours: values[theirs] for theirs, ours in _NAMES.items() if theirs in values}
    buckets = {ours: values[theirs] for theirs, ours in _BUCKET_NAMES.items() if theirs in values}
    if buckets:
        own["buckets"] = {**data.buckets.model_dump(), **buckets}
    if "resolution" in values:
        own["resolution"] = _size(values["resolution"], subset)
    if "random_crop" in values:
        own["crop"] = "random" if values["random_crop"] else "center"
    return _validated(SubsetOptions, {"repeats": 1, "subfolders": False, **own, **_source(subset)}, subset)


def _source(subset: KohyaSubset) -> dict[str, Any]:
    """Say where a subset's images and captions are."""
    values, table = subset.values, subset.values.get("metadata_file")
    place = values.get("image_dir", table)
    if place is None:
        raise ConfigError("image_dir is missing", hint="say where its images are", where=subset.place)
    if table is not None:
        listed = {"captions": "json", "captions_json": table, "missing_captions": "skip"}
        return {"path": place, **(listed if place != table else {})}
    source: dict[str, Any] = {"path": place}
    if "caption_extension" in values:
        extension = values["caption_extension"]
        if extension not in _CAPTIONS:
            raise ConfigError(
                f"caption_extension {extension!r:.40} is not read", hint="rename the files to .txt", where=subset.place
            )
        source["captions"] = _CAPTIONS[extension]
    if "class_tokens" in values:
        source["missing_captions"] = "class_text"
    return source


def _size(value: Any, subset: KohyaSubset) -> str:
    sides = value if isinstance(value, list) else [value]
    if not 0 < len(sides) <= 2 or not all(type(side) is int for side in sides):
        raise ConfigError(
            f"resolution {value!r:.40} is not a size", hint="write 512, or [640, 448]", where=subset.place
        )
    return "x".join(str(side) for side in sides)


def _validated(kind: type[SubsetOptions], values: dict[str, Any], subset: KohyaSubset) -> SubsetOptions:
    """Check values by the rules of our own options; messages name kohya's."""
    try:
        return kind(**values)
    except ValidationError as error:
        theirs = {ours: name for name, ours in (_NAMES | _BUCKET_NAMES).items()}
        problems = Problems(ConfigError)
        for detail in error.errors():
            name = next((str(part) for part in reversed(detail["loc"]) if part in theirs), "")
            text = detail["msg"].removeprefix("Value error, ")
            problems.add(f"{theirs.get(name, detail['loc'][0])} = {detail['input']!r:.40}: {text}", where=subset.place)
        problems.raise_if_any()
        raise


def _regularization(
    options: RegularizationOptions,
    others: Sequence[KohyaSubset],
    subjects: Sequence[KohyaSubset],
    subsets: list[SubsetOptions],
) -> tuple[RegularizationOptions, list[SubsetOptions]]:
    """Give regularization images to all where there is one folder and one dataset, else to the subset of their own."""
    if not others:
        return options, subsets
    if options.path is not None:
        raise ConfigError(
            f"regularization.path is {options.path}, and the dataset file has is_reg subsets", hint="keep one of them"
        )
    paths = {_source(other)["path"]: other for other in others}
    if len(paths) == 1 and len({subject.dataset for subject in subjects}) == 1:
        ((path, other),) = paths.items()
        prompt = other.values.get("class_tokens", options.prompt)
        return options.model_copy(update={"path": path, "prompt": prompt}), subsets
    own = list(subsets)
    for path, other in paths.items():
        partners = [number for number, subject in enumerate(subjects) if subject.dataset == other.dataset]
        if len(partners) != 1 or own[partners[0]].regularization is not None:
            raise ConfigError(
                "regularization images, and it is not clear which subset of their dataset they go with",
                hint="put them into one folder as 1_class, 1_other, and name that; or make a dataset of each pair",
                where=other.place,
            )
        regularization = SubsetRegularizationOptions(path=path, prompt=other.values.get("class_tokens"))
        own[partners[0]] = own[partners[0]].model_copy(update={"regularization": regularization})
    return options, own


def _validation(options: ValidationOptions, subjects: Sequence[KohyaSubset]) -> ValidationOptions:
    split = _one_value("validation_split", subjects)
    if not split:
        return options
    if options.is_wanted and options.split != split:
        raise ConfigError(
            f"validation_split is {split} in the dataset file, and validation is set too", hint="keep one of them"
        )
    try:
        return type(options).model_validate({**options.model_dump(), "split": split})
    except ValidationError as error:
        raise ConfigError(f"validation_split = {split!r:.40}: {error.errors()[0]['msg']}") from None


def _shared(subjects: Sequence[KohyaSubset], data: DataOptions) -> dict[str, str]:
    """Give the options that sdtune has once for all folders."""
    values = {ours: _one_value(theirs, subjects) for theirs, ours in _SHARED_NAMES.items()}
    given = {name: value for name, value in values.items() if value is not None}
    try:
        type(data).model_validate(given)
    except ValidationError as error:
        raise ConfigError(f"{given!r:.60} are no separators: {error.errors()[0]['msg']}", hint="mend them") from None
    return given


def _one_value(name: str, subjects: Sequence[KohyaSubset]) -> Any:
    values = [subject.values.get(name) for subject in subjects]
    if any(value != values[0] for value in values):
        raise ConfigError(
            f"{name} differs from subset to subset: {values!r:.60}", hint="sdtune has one for all; move it to [general]"
        )
    return values[0]


def _notes(found: Sequence[KohyaSubset], data: DataOptions) -> list[str]:
    """Tell what does nothing here, or other than with kohya's scripts."""
    named = {name for subset in found for name in subset.values}
    notes = [f"{name} does nothing here: {why}" for name, why in _UNUSED.items() if name in named]
    if "enable_bucket" not in named:
        notes.append(f"no enable_bucket, so buckets are {'on' if data.buckets.enabled else 'off'} as data.buckets says")
    if "conditioning_data_dir" in named and data.mask.normalise:
        notes.append("masks are normalised here, with kohya's scripts not; data.mask.normalise=false does as they do")
    if any("num_repeats" in subset.values for subset in found if subset.is_regularization):
        notes.append("num_repeats of is_reg subsets does nothing here: all of their images take turns")
    return notes
