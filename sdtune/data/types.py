"""The values that travel through the data pipeline; light, no torch at import time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from sdtune.config.data import DataOptions

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


class Size(NamedTuple):
    """Width and height in px."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """A folder of images as it was found.

    Attributes:
        name: Name of the folder, e.g. `10_dog`; unique within the data set.
        path: The folder.
        repeats: Visits of each image in an epoch; of 2.5 each image has two, and half of them, in turn, a third.
        class_text: The folder's class text, e.g. `dog`; empty when there is none.
        weight: Weight of the loss.
        caption_source: Where its captions came from: "txt", "caption", "mixed" (both), "json", "class_text",
            "filename", "folder", "prompt" or "empty".
        is_regularization: It shows the class, not the subject; its images take turns (`data.order.rotation`).
        pairs_with: For regularization, the training folders it belongs to; empty: all.
        weight_end: Weight in the last epoch; None: as `weight`.
        options: Options of the data as they hold for this folder.
        batch_size: Images in a batch of this folder's; None: `train.batch_size`.
        templates: Lines of its file of prompt templates; empty: it has none.
    """

    name: str
    path: Path
    repeats: float
    class_text: str
    weight: float
    caption_source: str
    is_regularization: bool = False
    pairs_with: tuple[str, ...] = ()
    weight_end: float | None = None
    options: DataOptions = field(default=DataOptions(), compare=False, repr=False)
    batch_size: int | None = None
    templates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskFile:
    """A picture that says where in an image the loss counts.

    Attributes:
        path: The file.
        digest: BLAKE2b-128 of its bytes, hex.
    """

    path: Path
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """One image of the data set.

    Attributes:
        path: The file.
        name: Path inside the data set with `/`, e.g. `10_dog/01.jpg`: the stable identity that random draws hang on.
        size: Width and height after EXIF rotation.
        digest: BLAKE2b-128 of the file's bytes, hex.
        caption: Its own caption, worded as far as no draw is needed; see `data.captions`.
        subset: Its folder.
        mask: Where in it the loss counts; None: no file says so.
    """

    path: Path
    name: str
    size: Size
    digest: str
    caption: str
    subset: Subset
    mask: MaskFile | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How an image is brought to the size of its bucket.

    Attributes:
        bucket: Size of the bucket.
        resized: Size after resizing; covers the bucket.
        left: Crop offset from the left, px.
        top: Crop offset from the top, px.
    """

    bucket: Size
    resized: Size
    left: int
    top: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One image seen once in one epoch.

    Attributes:
        image: Index into the data set's images.
        sample_id: `NAME#REPEAT`: unique within the epoch, the key of every random draw.
    """

    image: int
    sample_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """Visits that are trained together, all of one bucket."""

    bucket: Size
    visits: tuple[Visit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One micro-batch, ready for the step.

    Attributes:
        sample_ids: B sample ids.
        captions: B captions after augmentation and the method's own treatment.
        pixels: (B, 3, H, W) float32 in [-1, 1]; None when latents are cached.
        mean: (B, 4, h, w) float32 mean of the VAE's posterior, scaled; None when latents are not cached.
        std: (B, 4, h, w) float32 standard deviation, scaled; None when latents are not cached.
        weights: (B,) float32 loss weights.
        size: Size of the bucket in px.
        sizes: (B, 6) float32 original height and width, top and left of the crop, height and width of the bucket, px.
        is_regularization: For each sample, whether it shows the class and not the subject.
        mask: (B, 1, h, w) float32 weight over the picture, of mean 1 by default; None where all of it counts alike.
    """

    sample_ids: tuple[str, ...]
    captions: tuple[str, ...]
    pixels: Tensor | None
    mean: Tensor | None
    std: Tensor | None
    weights: Tensor
    size: Size
    sizes: Tensor
    is_regularization: tuple[bool, ...] = ()
    mask: Tensor | None = None
