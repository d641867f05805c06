"""Checks of single picture files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.data.check import kinds
from sdtune.data.check.finding import Finding
from sdtune.data.index.building import MAX_ASPECT, MIN_SIDE_PX
from sdtune.data.sources.listing import UNREADABLE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sdtune.data.check.finding import DefectKind
    from sdtune.data.check.pictures import PictureFacts
    from sdtune.data.check.survey import SeenFolder, SeenImage, Survey

HUGE_BYTES = 30_000_000
LEAST_TRANSPARENT = 0.001
JUDGED_PX = 128
"""Sharpness and frames of pictures with a shorter side below this say nothing."""

_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".jfif"),
    "TIFF": (".tif", ".tiff"),
    "HEIF": (".heic", ".heif"),
}
_FAULTS: Mapping[str, DefectKind] = {
    "corrupt": kinds.CORRUPT,
    "cut-off": kinds.CUT_OFF,
    "too-large": kinds.TOO_LARGE,
    "bad-name": kinds.BAD_NAME,
}
_SIDES = ("left", "top", "right", "bottom")
_FAULT_REMEDIES = {
    "corrupt": "take it from where it came from, or leave it out",
    "cut-off": "copy or download it again, or leave it out",
    "too-large": "shrink it, or leave it out",
    "bad-name": "rename it, or put a copy of the file there",
}


def faulty_images(survey: Survey) -> Iterator[Finding]:
    """Find pictures that cannot be read."""
    for image in survey.images:
        if image.fault is not None:
            yield Finding(
                kind=_FAULTS[image.fault.kind],
                place=str(image.path),
                message=image.fault.text,
                remedy=_FAULT_REMEDIES[image.fault.kind],
                script=leave_out(image),
            )


def foreign_formats(survey: Survey) -> Iterator[Finding]:
    """Find picture files of formats that cannot be read here."""
    for path in (path for folder in survey.folders for path in folder.others):
        if path.suffix.lower() in UNREADABLE_SUFFIXES:
            yield Finding(
                kind=kinds.UNKNOWN_FORMAT,
                place=str(path),
                message=f"{path.suffix[1:].upper()} cannot be read",
                remedy="save it as JPEG or PNG",
                script=("set_aside", str(path)),
            )


def small_images(survey: Survey) -> Iterator[Finding]:
    """Find pictures that are too small or too narrow for any bucket."""
    for image in survey.images:
        if image.size and (min(image.size) < MIN_SIDE_PX or max(image.size) > MAX_ASPECT * min(image.size)):
            yield Finding(
                kind=kinds.TOO_SMALL,
                place=str(image.path),
                message=f"{image.size} px; sides start at {MIN_SIDE_PX}, and none is {MAX_ASPECT} times the other",
                remedy="leave it out",
                script=leave_out(image),
            )


def wrong_extensions(survey: Survey) -> Iterator[Finding]:
    """Find pictures whose names say another format than their content."""
    pairs = [(folder, image) for folder in survey.read_folders() for image in folder.images]
    for folder, image in pairs:
        kind = image.facts.format if image.facts else ""
        usual = _SUFFIXES.get(kind, (f".{kind.lower()}",))
        if kind and image.path.suffix.lower() not in usual:
            new = free_name(folder, image.path.with_suffix(usual[0]))
            yield Finding(
                kind=kinds.WRONG_EXTENSION,
                place=str(image.path),
                message=f"its content is {kind}",
                remedy=f"rename it to {new.name}",
                script=("rename", str(image.path), str(new)),
            )


def turned_images(survey: Survey) -> Iterator[Finding]:
    """Find pictures that lie, and are turned by what EXIF says."""
    for image in survey.images:
        if image.facts and image.facts.orientation not in (0, 1):
            yield Finding(
                kind=kinds.TURNED,
                place=str(image.path),
                message=f"turned by EXIF (orientation {image.facts.orientation})",
                remedy="nothing for sdtune; save it upright for other programs",
            )


def odd_colors(survey: Survey) -> Iterator[Finding]:
    """Find pictures in colours for printing."""
    for image in survey.images:
        if image.facts and image.facts.mode == "CMYK":
            yield Finding(
                kind=kinds.CMYK,
                place=str(image.path),
                message="colours for printing (CMYK)",
                remedy="save it as RGB (sRGB) in a picture editor, and look at it again",
            )


def transparent_images(survey: Survey) -> Iterator[Finding]:
    """Find pictures with transparency that is filled with a colour."""
    for image in survey.images if not survey.options.alpha_weight else ():
        if image.facts and image.facts.transparent > LEAST_TRANSPARENT:
            yield Finding(
                kind=kinds.TRANSPARENT,
                place=str(image.path),
                message=f"{image.facts.transparent:.0%} of it is transparent, filled with {survey.options.alpha_color}",
                remedy="data.alpha_weight=true learns the opaque parts only; data.alpha_color=... fills otherwise",
            )


def animations(survey: Survey) -> Iterator[Finding]:
    """Find pictures of several frames or pages."""
    for image in survey.images:
        if image.facts and image.facts.has_more_frames and image.facts.format != "MPO":
            yield Finding(
                kind=kinds.ANIMATED,
                place=str(image.path),
                message="several frames or pages, the first is used",
                remedy="save the frame you want as a PNG of its own",
            )


def huge_files(survey: Survey) -> Iterator[Finding]:
    """Find picture files of very many bytes."""
    for image in survey.images:
        if image.size_bytes > HUGE_BYTES:
            yield Finding(
                kind=kinds.HUGE_FILE,
                place=str(image.path),
                message=f"{image.size_bytes / 1e6:.0f} MB, {image.size} px",
                remedy="save it smaller: twice the resolution is plenty",
            )


def soft_images(survey: Survey) -> Iterator[Finding]:
    """Find pictures that are blurred, or were enlarged before they came here."""
    for image in survey.images:
        facts = _judged(image)
        if facts is not None and facts.is_blurred:
            yield Finding(
                kind=kinds.BLURRED,
                place=str(image.path),
                message=f"no edge is sharp (sharpness {facts.sharpness:.2f} of 1)",
                remedy="take a sharper one, or leave it out",
                script=leave_out(image),
            )
        if facts is not None and facts.is_enlarged:
            yield Finding(
                kind=kinds.UPSCALED,
                place=str(image.path),
                message=f"{image.size} px, with the detail of a picture about {facts.falloff_scale:.1f} times smaller",
                remedy="use the file it was made from, or leave it out",
                script=leave_out(image),
            )


def plain_images(survey: Survey) -> Iterator[Finding]:
    """Find pictures that show nothing, are framed, or lost much to compression."""
    for image in survey.images:
        facts = image.facts
        if facts is not None and facts.is_blank:
            yield Finding(
                kind=kinds.BLANK,
                place=str(image.path),
                message="of one colour",
                remedy="leave it out",
                script=leave_out(image),
            )
        if facts is not None and facts.has_frame and _judged(image):
            shares = ", ".join(
                f"{share:.0%} {side}" for side, share in zip(_SIDES, facts.borders, strict=True) if share
            )
            yield Finding(
                kind=kinds.FRAMED,
                place=str(image.path),
                message=f"even stripes along its sides: {shares}",
                remedy="crop them away",
            )
        if facts is not None and facts.is_poor_jpeg:
            yield Finding(
                kind=kinds.POOR_JPEG,
                place=str(image.path),
                message=f"JPEG of quality {facts.quality}",
                remedy="take the original, if there is one",
            )


def _judged(image: SeenImage) -> PictureFacts | None:
    """Give what is seen in a picture, where it is large enough to judge by."""
    return image.facts if image.size and min(image.size) >= JUDGED_PX else None


def leave_out(image: SeenImage) -> tuple[str, ...]:
    """Give the command that sets an image aside, with the captions that are its alone."""
    return ("set_aside", str(image.path), *(str(path) for path in image.caption_files))


def free_name(folder: SeenFolder, wanted: Path) -> Path:
    """Give a name like this one that no image of the folder has."""
    taken = {image.path.name.casefold() for image in folder.images}
    names = [wanted, *(wanted.with_stem(f"{wanted.stem}-{number}") for number in range(2, len(taken) + 3))]
    return next(name for name in names if name.name.casefold() not in taken)
