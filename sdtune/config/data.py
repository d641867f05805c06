"""Options of images and captions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sdtune.config.base import Options
from sdtune.config.kinds import CaptionSource, Fraction, PositiveInt, Size
from sdtune.config.objective import MaskOptions


class BucketOptions(Options):
    """Aspect-ratio buckets: images of like shape are trained together, cropped as little as possible."""

    enabled: bool = True
    """Off: every image is resized and centre-cropped to the resolution."""
    min_px: PositiveInt = 256
    """Shortest side of a bucket; lowered to fit a resolution below it."""
    max_px: PositiveInt | None = None
    """Longest side of a bucket; null: twice the longer side of the resolution, so wide pictures keep their area."""
    step_px: Annotated[int, Field(ge=8, multiple_of=8)] = 64
    """Sides of buckets are multiples of this; lowered to 8 when the resolution is below 256."""
    no_upscale: bool = False
    """Never enlarge: small images get buckets of their own size."""


class SubsetRegularizationOptions(Options):
    """Images of one folder's class, beside those of `regularization`."""

    path: Path | None = None
    """A folder of images; null: the user's cache folder."""
    prompt: str | None = None
    """Caption of images without one, and what is drawn; `[filewords]`: the caption of the image it is drawn for."""
    per_image: Annotated[int, Field(ge=0, le=1000)] = 0
    """Images wanted for each image of the folder; missing ones are drawn as `regularization.generate` says."""

    @model_validator(mode="after")
    def _check_prompt(self) -> Self:
        if self.per_image and not self.prompt:
            raise ValueError("prompt must say what per_image draws, e.g. a photo of a dog")
        return self


class SubsetOptions(Options):
    """One folder of images with its own treatment: one subject, or one concept."""

    path: Path
    """Folder with images."""
    repeats: PositiveInt | None = None
    """How often each image is seen in an epoch; null: the number before `_` in the folder's name, else 1."""
    class_text: str | None = None
    """Caption for images without one, when `captions: class_text`; null: the folder's name after `N_`."""
    captions: CaptionSource | None = None
    """Where captions come from; null: as `data.captions`."""
    prompt: str | None = None
    """Caption of every image; `[filewords]` in it stands for the image's own caption. null: its own caption."""
    token: str = ""
    """What calls the subject, e.g. zwx: `a photo of a dog` becomes `a photo of a zwx dog` where it is missing."""
    class_word: str = ""
    """What the subject is, e.g. dog; the token goes before it."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of this subset's loss."""
    mask_dir: Path | None = None
    """Folder of masks for this folder's images, as `data.mask.dir`; null: that one."""
    regularization: SubsetRegularizationOptions | None = None
    """Images of this folder's class, for it alone; the token is taken out of their captions."""


class CacheOptions(Options):
    """Latents and text hidden states, computed once and kept by content."""

    latents: Literal["disk", "ram", "off"] = "disk"
    """`disk` keeps the VAE's mean and std for later runs; `ram` for this run; `off` encodes at each step."""
    text: Literal["disk", "ram", "off"] = "ram"
    """The same for the text encoder's output; only where the method does not train the text encoder."""
    dir: Path | None = None
    """Cache folder; null: the user's cache folder, never the image folder."""
    vae_batch_size: PositiveInt = 1
    """Images encoded at once while the cache is filled."""


class DataOptions(Options):
    """Images and captions."""

    path: Path | None = None
    """A folder of images, or of `N_name` folders (N repeats); `demo`: five drawings for the demo model, and
    on the command line also the method's settings for them."""
    subsets: tuple[SubsetOptions, ...] = ()
    """Several folders, each with its own options; instead of `path`."""
    captions: CaptionSource = "auto"
    """`auto`: the caption file type found (.txt or .caption). Without any: choose class_text, filename or empty."""
    captions_json: Path | None = None
    """With `captions: json`: one JSON map from file name (or path in the folder) to caption."""
    class_text: str | None = None
    """Caption of every image with `captions: class_text`, e.g. "photo of zwx dog"; overrides the folder's name."""
    resolution: Size | None = None
    """Side in px, or WIDTHxHEIGHT; with buckets only the area counts. null: the side the model was trained at."""
    buckets: BucketOptions = BucketOptions()
    """Aspect-ratio buckets."""
    flip: bool = False
    """Mirror half of the visits, left to right; not for faces, text, or things with a side."""
    shuffle_tags: bool = False
    """Shuffle comma-separated tags at each visit."""
    keep_tags: Annotated[int, Field(ge=0)] = 0
    """With `shuffle_tags` or `tag_dropout`: this many tags at the front stay in place."""
    tag_dropout: Fraction = 0.0
    """Chance that a comma-separated tag behind `keep_tags` is left out at a visit."""
    caption_dropout: Fraction = 0.0
    """Share of visits with an empty caption."""
    size_conditioning: Literal["real", "kohya"] = "real"
    """The crop that SDXL is told of: the one that is made, or the one that kohya's scripts name, for like curves."""
    alpha_color: str = "white"
    """Colour under transparent pixels: a name or #rrggbb."""
    alpha_weight: bool = False
    """Weight the loss over the picture by its transparency: what is opaque counts, what is transparent does not."""
    mask: MaskOptions = MaskOptions()
    """Where in a picture the loss counts."""
    cache: CacheOptions = CacheOptions()
    """Caches."""
    workers: Annotated[int, Field(ge=0, le=16)] = 2
    """Threads that prepare batches while others are trained on; any number gives the same run. 0: none, each batch is
    prepared when its turn comes. More than 2 help with `cache.latents: off` and photos of many megapixels."""
    prefetch: Annotated[int, Field(ge=1, le=64)] = 4
    """With `workers`: how many batches wait ready at most; one of pixels takes 12 MiB for each image of 1024 px."""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if self.path is not None and self.subsets:
            raise ValueError("give either path or subsets, not both")
        places = [self.mask.dir, *(subset.mask_dir for subset in self.subsets)]
        if self.mask != MaskOptions() and not self.alpha_weight and not any(places):
            raise ValueError("mask does nothing without a folder: give mask.dir, or alpha_weight: true")
        return self

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the resolution, once it is known."""
        if self.resolution is None:
            raise ValueError("the resolution is not known before the model is")
        sides = [int(side) for side in self.resolution.split("x")]
        return sides[0], sides[-1]
