"""kohya's dataset file (TOML), as its scripts read it: `library/config_util.py` of sd-scripts 0.10.1."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdtune.errors import ConfigError, Problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_TOML_BYTES = 1 << 20

# Where each option may stand: in [general] G, in [[datasets]] D, in [[datasets.subsets]] S.
_LEVELS = {
    **dict.fromkeys(("resolution", "batch_size", "network_multiplier", "validation_split", "validation_seed"), "GD"),
    **dict.fromkeys(("enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps"), "GD"),
    **dict.fromkeys(("bucket_no_upscale",), "GD"),
    **dict.fromkeys(("num_repeats", "shuffle_caption", "flip_aug", "color_aug", "random_crop"), "GDS"),
    **dict.fromkeys(("enable_wildcard", "keep_tokens", "caption_separator", "keep_tokens_separator"), "GDS"),
    **dict.fromkeys(("secondary_separator", "caption_prefix", "caption_suffix", "caption_dropout_rate"), "GDS"),
    **dict.fromkeys(("caption_dropout_every_n_epochs", "caption_tag_dropout_rate", "token_warmup_min"), "GDS"),
    **dict.fromkeys(("token_warmup_step", "face_crop_aug_range", "custom_attributes"), "GDS"),
    **dict.fromkeys(("caption_extension", "class_tokens", "cache_info", "resize_interpolation"), "GDS"),
    **dict.fromkeys(("image_dir", "is_reg", "alpha_mask", "metadata_file", "conditioning_data_dir"), "S"),
}
_LEVEL_NAMES = {"G": "[general]", "D": "[[datasets]]", "S": "[[datasets.subsets]]"}
_SECTIONS = ("general", "datasets")


@dataclass(frozen=True, slots=True, kw_only=True)
class KohyaSubset:
    """A subset of a dataset file, with all that holds for it.

    Attributes:
        place: Where it stands, e.g. `dataset 1, subset 2`.
        dataset: Number of its dataset, from 1.
        values: Option to value; its own go before those of its dataset, and those before `[general]`'s.
    """

    place: str
    dataset: int
    values: Mapping[str, Any]

    @property
    def is_regularization(self) -> bool:
        """Whether it shows the class, not the subject."""
        return self.values.get("is_reg") is True


def read_kohya_toml(path: Path) -> tuple[KohyaSubset, ...]:
    """Read a dataset file.

    Paths in it count from where the program was started, as with kohya's scripts, else from the file's folder.

    Raises:
        ConfigError: It is no such file, or has options that are not known or stand in the wrong place: all of them.
    """
    table, problems = _load(path), Problems(ConfigError)
    _check_names(table, _SECTIONS, "the file", problems)
    general = _table(table.get("general", {}), "[general]", problems)
    _check_options(general, "G", "[general]", problems)
    subsets = []
    for number, dataset in enumerate(_tables(table.get("datasets", []), "[[datasets]]", problems), start=1):
        place = f"dataset {number}"
        own = {name: value for name, value in dataset.items() if name != "subsets"}
        _check_options(own, "D", place, problems)
        for position, subset in enumerate(_tables(dataset.get("subsets", []), place, problems), start=1):
            here = f"{place}, subset {position}"
            _check_options(subset, "S", here, problems)
            values = _with_paths({**general, **own, **subset}, path.parent)
            subsets.append(KohyaSubset(place=here, dataset=number, values=values))
    problems.raise_if_any()
    if not subsets:
        raise ConfigError(f"{path} has no [[datasets.subsets]]", hint='write one, with image_dir = "..." in it')
    return tuple(subsets)


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"no file {path}", where="data.path", hint="check the path")
    if path.stat().st_size > MAX_TOML_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_TOML_BYTES >> 20} MiB", hint="is it a dataset file?")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # of TOML, and of UTF-8
        raise ConfigError(f"{path} is not TOML: {error}", hint="mend it") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error


def _table(value: Any, place: str, problems: Problems) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    problems.add(f"{place} is {value!r:.40}, not a table", hint="write its options below it, one in a line")
    return {}


def _tables(value: Any, place: str, problems: Problems) -> Iterator[dict[str, Any]]:
    if not isinstance(value, list):
        problems.add(f"{place} is not a list of tables", hint="write [[datasets]], and [[datasets.subsets]] below it")
        return
    for table in value:
        yield _table(table, place, problems)


def _check_options(table: Mapping[str, Any], level: str, place: str, problems: Problems) -> None:
    _check_names(table, _LEVELS, place, problems)
    if not isinstance(table.get("is_reg", False), bool):
        problems.add(f"is_reg = {table['is_reg']!r:.40}", hint="write true or false", where=place)
    for name in table:
        if level not in _LEVELS.get(name, level):
            levels = " or ".join(_LEVEL_NAMES[letter] for letter in _LEVELS[name])
            problems.add(f"{name} cannot stand in {_LEVEL_NAMES[level]}", hint=f"move it to {levels}", where=place)


def _check_names(
    table: Mapping[str, Any], known: Mapping[str, str] | tuple[str, ...], place: str, problems: Problems
) -> None:
    for name in table:
        if name not in known:
            near = difflib.get_close_matches(name, list(known), n=1)
            problems.add(
                f"{name}: unknown option", hint=f"did you mean {near[0]!r}?" if near else "remove it", where=place
            )


def _with_paths(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Turn texts that are paths into paths."""
    for name in ("image_dir", "metadata_file", "conditioning_data_dir"):
        if isinstance(text := values.get(name), str):
            given = Path(text).expanduser()
            values[name] = given if given.exists() or not (folder / given).exists() else folder / given
    return values
