"""Options of one folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from sdtune.config.base import Options
from sdtune.config.buckets import BucketOptions
from sdtune.config.kinds import CaptionLines, CaptionSource, Crop, Fraction, MissingCaption, PositiveInt, Size
from sdtune.config.rates import Span

MAX_REPEATS = 10_000


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
    """One folder of images with its own treatment: one subject, or one concept.

    Options that `data` has too are null here where they are as there; `config.data.settle` puts both together.
    """

    path: Path
    """Folder with images, or anything else that `data.path` may be."""
    subfolders: bool = True
    """Read the folders in it too, with the same options; kohya's dataset files do not."""
    repeats: Annotated[float, Field(gt=0, le=MAX_REPEATS)] | None = None
    """How often each image is seen in an epoch: 2.5 is twice, and half of them, in turn, once more. null: the number
    before `_` in the folder's name, else 1."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of this subset's loss."""
    resolution: Size | None = None
    """Side in px, or WIDTHxHEIGHT; null: as `data.resolution`. One folder may be named for several resolutions."""
    batch_size: PositiveInt | None = None
    """Images in a batch of this folder's; null: `train.batch_size`."""
    buckets: BucketOptions | None = None
    """Buckets of this folder; null: as `data.buckets`."""
    captions: CaptionSource | None = None
    """Where captions come from."""
    captions_json: Path | None = None
    """With `captions: json`: this folder's file."""
    caption_lines: CaptionLines | None = None
    """What of a caption of several lines is used."""
    missing_captions: MissingCaption | None = None
    """What becomes of images without a caption."""
    class_text: str | None = None
    """Caption for images without one, when `captions: class_text`; null: the folder's name after `N_`."""
    prompt: str | None = None
    """Caption of every image; `[filewords]` in it stands for the image's own caption. null: its own caption."""
    token: str | None = None
    """What calls the subject, e.g. zwx: `a photo of a dog` becomes `a photo of a zwx dog` where it is missing."""
    class_word: str | None = None
    """What the subject is, e.g. dog; the token goes before it."""
    prefix: str | None = None
    """Put before every caption."""
    suffix: str | None = None
    """Put behind every caption."""
    templates: Path | None = None
    """File of prompt templates, one drawn at each visit."""
    shuffle_tags: bool | None = None
    """Shuffle tags at each visit."""
    keep_tags: Annotated[int, Field(ge=0)] | None = None
    """This many tags at the front stay in place."""
    keep_separator: str | None = None
    """Parts the tags that stay in place from the others."""
    tag_dropout: Fraction | None = None
    """Chance that a tag is left out at a visit."""
    tag_warmup: Span | None = None
    """How long the number of tags grows."""
    tag_warmup_min: PositiveInt | None = None
    """With how many tags the growth begins."""
    caption_dropout: Fraction | None = None
    """Share of visits with an empty caption."""
    caption_dropout_every_epochs: Annotated[int, Field(ge=0)] | None = None
    """Epochs in which all captions are empty."""
    wildcards: bool | None = None
    """Draw one of `{a|b}` at each visit."""
    flip: bool | None = None
    """Mirror half of the visits."""
    crop: Crop | None = None
    """Where images are cut."""
    color: bool | None = None
    """Vary colours at each visit."""
    alpha_weight: bool | None = None
    """Weight the loss over the picture by its transparency."""
    mask_dir: Path | None = None
    """Folder of masks for this folder's images, as `data.mask.dir`; null: that one."""
    unmasked_weight: Fraction | None = None
    """How much counts what is black in a mask, as `data.mask.unmasked_weight`."""
    regularization: SubsetRegularizationOptions | None = None
    """Images of this folder's class, for it alone; the token is taken out of their captions."""
