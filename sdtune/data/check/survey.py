"""Everything that is known of a data set, whatever is broken in it: what the checks look at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from sdtune.config.data import DataOptions
    from sdtune.data.buckets.report import BucketReport
    from sdtune.data.check.pictures import PictureFacts
    from sdtune.data.types import Size
    from sdtune.errors import Problem

Role = Literal["training", "regularization", "validation"]
FaultKind = Literal["corrupt", "cut-off", "too-large", "bad-name"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a picture cannot be used.

    Attributes:
        kind: What kind of defect that is.
        text: What was found, in words.
    """

    kind: FaultKind
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenMask:
    """A picture's mask.

    Attributes:
        path: The file.
        size: Its size; None: it cannot be read.
        is_flat: It is the same everywhere.
    """

    path: Path
    size: Size | None
    is_flat: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenImage:
    """An image as far as it can be read.

    Attributes:
        path: The file.
        role: What it is for.
        size: Width and height after EXIF rotation; None: the header cannot be read.
        fault: Why it cannot be used; None: nothing is known against it.
        facts: What its pixels tell; None: nobody looked.
        digest: BLAKE2b-128 of its bytes; empty: not read.
        size_bytes: Size of the file; 0: not known.
        caption: What is learned with it; None: there is none.
        caption_files: Caption files that belong to it and to no other image, whatever their suffix.
        mask: Where in it the loss counts; None: no file says so.
    """

    path: Path
    role: Role
    size: Size | None = None
    fault: Fault | None = None
    facts: PictureFacts | None = None
    digest: str = ""
    size_bytes: int = 0
    caption: str | None = None
    caption_files: tuple[Path, ...] = ()
    mask: SeenMask | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenCaption:
    """A caption file.

    Attributes:
        path: The file.
        text: All of it, line ends and all; None: it cannot be read.
        fault: Why not; empty: it can.
    """

    path: Path
    text: str | None
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenFolder:
    """A folder with everything in it.

    Attributes:
        path: The folder.
        role: What its images are for.
        images: Its images, in natural order.
        captions: Files that sdtune takes for captions.
        others: Files that are neither.
        repeats: Visits of each image in an epoch.
        class_text: What its name says behind the number.
        caption_source: Where its captions come from, as `Subset.caption_source`; `auto`: not settled.
        is_read: A run uses it, as far as is known.
        is_inside: Of regularization: it lies among the folders of the subject.
        is_paired: Of regularization: a training folder was found for it by its name.
    """

    path: Path
    role: Role
    images: tuple[SeenImage, ...]
    captions: tuple[SeenCaption, ...] = ()
    others: tuple[Path, ...] = ()
    repeats: float = 1.0
    class_text: str = ""
    caption_source: str = "auto"
    is_read: bool = True
    is_inside: bool = False
    is_paired: bool = True


class TokenCounter(Protocol):
    """Counts the tokens of a text, as `DiffusionModel` does."""

    def count_tokens(self, caption: str) -> int:
        """Count tokens without the start and end marks."""

    def count_cut(self, caption: str) -> int:
        """Count the tokens that find no room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What is known of the run that the images are for.

    Attributes:
        size: Resolution in px.
        batch_size: Images in a batch.
        epochs: Epochs; None: not given.
        visits: Visits of images in the whole run; None: not given.
        tokens: Counts tokens.
        is_estimate: The counts are estimated, since there is no tokenizer.
    """

    size: Size
    batch_size: int
    epochs: int | None
    visits: int | None
    tokens: TokenCounter
    is_estimate: bool


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A data set.

    Attributes:
        root: What was looked at.
        options: Options of the data.
        folders: Its folders.
        run: The run it is for.
        buckets: What its buckets cost; None: not known.
        refusals: What a run would say instead of starting.
        images_in_all: Of how many images these are some; None: they are all.
    """

    root: Path
    options: DataOptions
    folders: tuple[SeenFolder, ...]
    run: RunFacts
    buckets: BucketReport | None = None
    refusals: tuple[Problem, ...] = ()
    images_in_all: int | None = None

    @cached_property
    def images(self) -> tuple[SeenImage, ...]:
        """All images of folders that are read."""
        return tuple(image for folder in self.read_folders() for image in folder.images)

    def read_folders(self, role: Role | None = None) -> list[SeenFolder]:
        """List the folders that a run reads, of one role or of all."""
        return [folder for folder in self.folders if folder.is_read and role in (None, folder.role)]

    def images_for(self, role: Role) -> list[SeenImage]:
        """List the images of one role."""
        return [image for image in self.images if image.role == role]

    def captioned(self) -> Iterator[tuple[str, SeenImage]]:
        """Give each training image that has a caption, and where that is written: its file, or the image itself."""
        for image in self.images_for("training"):
            if image.caption:
                yield str(image.caption_files[0] if image.caption_files else image.path), image

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """What is learned with the training images that have a caption."""
        return tuple(image.caption for image in self.images_for("training") if image.caption)


def tags_of(caption: str, separator: str = ",") -> list[str]:
    """Split a caption into its tags."""
    return [tag for tag in (part.strip() for part in caption.split(separator)) if tag]


def is_tagged(captions: Iterable[str], separator: str = ",") -> bool:
    """Tell whether captions are lists of tags, not sentences: most have three parts at least."""
    counts = [len(tags_of(caption, separator)) for caption in captions]
    return sum(count >= 3 for count in counts) > len(counts) / 2
