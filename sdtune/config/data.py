"""Options of images and captions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sdtune.config.base import Options
from sdtune.config.buckets import BucketOptions
from sdtune.config.cache import CacheOptions
from sdtune.config.kinds import CaptionLines, CaptionSource, Crop, Fraction, MissingCaption, PositiveInt, Size
from sdtune.config.objective import MaskOptions
from sdtune.config.rates import Span
from sdtune.config.subsets import SubsetOptions


class DataOptions(Options):
    """Images and captions."""

    path: Path | None = None
    """A folder of images in any arrangement: loose, in `N_name` folders (N repeats), nested. Or a file that lists them:
    kohya's dataset configuration (.toml) or metadata (.json, .jsonl), a manifest (.jsonl, .parquet), a webdataset
    (.tar). `demo`: five drawings for the demo model, and on the command line also the method's settings for them."""
    subsets: tuple[SubsetOptions, ...] = ()
    """Several folders, each with its own options; instead of `path`."""
    captions: CaptionSource = "auto"
    """`auto`: the caption files found (.txt or .caption). Without any: choose class_text, filename, folder or empty."""
    captions_json: Path | None = None
    """With `captions: json`: a JSON map from file name (or path in the folder, with or without its suffix) to caption,
    kohya's metadata, or JSON lines with `file_name` and `text`."""
    caption_lines: CaptionLines = "first"
    """Of a caption of several lines: the `first`, `all` of them as one, or one drawn at each visit (`draw`)."""
    missing_captions: MissingCaption = "error"
    """What becomes of images without a caption where others have one: an error, another source, or `skip`: left out."""
    class_text: str | None = None
    """Caption of every image with `captions: class_text`, e.g. "photo of zwx dog"; overrides the folder's name."""
    prompt: str | None = None
    """Caption of every image; `[filewords]` in it stands for the image's own caption, `{name}` for a word of
    `data.words`. null: its own caption."""
    token: str = ""
    """What calls the subject, e.g. zwx: `a photo of a dog` becomes `a photo of a zwx dog` where it is missing."""
    class_word: str = ""
    """What the subject is, e.g. dog; the token goes before it."""
    prefix: str = ""
    """Put before every caption, with a space between; the words of both are then tags alike."""
    suffix: str = ""
    """Put behind every caption, with a space between."""
    words: dict[str, str] = Field(default_factory=dict)
    """Words for placeholders in captions, prompts and templates: `{pt1: zwx}` puts zwx where `{pt1}` stands, and
    `{pt1:1.2}` puts it with that weight. Placeholders without a word become nothing."""
    templates: Path | None = None
    """File of prompt templates, one in a line, one drawn at each visit; `{caption}` or `[filewords]` is the image's
    caption, `[name]` the token, `{class}` the class word."""
    shuffle_tags: bool = False
    """Shuffle tags at each visit."""
    keep_tags: Annotated[int, Field(ge=0)] = 0
    """With `shuffle_tags`, `tag_dropout` or `tag_warmup`: this many tags at the front stay in place."""
    keep_separator: str = ""
    """Instead of a count, e.g. `|||`: tags before it stay in place, and so do those behind a second one."""
    tag_separator: Annotated[str, Field(min_length=1)] = ","
    """Parts the tags of a caption."""
    secondary_separator: str = ""
    """Binds tags into one that is shuffled and dropped as a whole, e.g. `;;;`; a tag separator afterwards."""
    tag_dropout: Fraction = 0.0
    """Chance that a tag behind those that stay in place is left out at a visit."""
    tag_warmup: Span = 0
    """The number of tags behind those that stay in place grows for so long: steps, a fraction of the run below 1, or a
    percentage such as 10%."""
    tag_warmup_min: PositiveInt = 1
    """With `tag_warmup`: how many there are at the beginning."""
    caption_dropout: Fraction = 0.0
    """Share of visits with an empty caption."""
    caption_dropout_every_epochs: Annotated[int, Field(ge=0)] = 0
    """All captions are empty in every so many-th epoch; 0: never."""
    wildcards: bool = False
    """Draw one of `{a|b}` at each visit; `{{` and `}}` are braces."""
    resolution: Size | None = None
    """Side in px, or WIDTHxHEIGHT; with buckets only the area counts. null: the side the model was trained at."""
    buckets: BucketOptions = BucketOptions()
    """Aspect-ratio buckets."""
    crop: Crop = "center"
    """Where images are cut: in the middle; anywhere, anew at each visit (`random`; takes `cache.latents: off`); around
    what draws the eye (`focal`) or around faces (`face`)."""
    face_model: Path | None = None
    """With `crop: face`: an .onnx file of YuNet, the face detector that OpenCV reads; takes the extra `faces`. null:
    faces are where file names tell, `NAME_CX_CY_W_H.jpg` as for kohya's scripts. Without one it is cut as `focal`."""
    flip: bool = False
    """Mirror half of the visits, left to right; not for faces, text, or things with a side."""
    color: bool = False
    """Vary hue and brightness a little in a third of the visits; takes `cache.latents: off`."""
    size_conditioning: Literal["real", "kohya"] = "real"
    """The crop that SDXL is told of: the one that is made, or the one that kohya's scripts name, for like curves."""
    bad_images: Literal["error", "skip"] = "error"
    """What becomes of images that cannot be read. `skip` leaves out at most one in a hundred, and names them."""
    animated: Literal["first", "refuse"] = "first"
    """Of animated pictures and files of several pages the first one is used, or they are refused."""
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
    write_schedule: bool = False
    """Write `schedule.jsonl` into the run's folder: what each step trains, of which bucket, by which caption."""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if self.path is not None and self.subsets:
            raise ValueError("give either path or subsets, not both")
        places = [self.mask.dir, *(subset.mask_dir for subset in self.subsets)]
        has_alpha = self.alpha_weight or any(subset.alpha_weight for subset in self.subsets)
        if self.mask != MaskOptions() and not has_alpha and not any(places):
            raise ValueError("mask does nothing without a folder: give mask.dir, or alpha_weight: true")
        return self

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the resolution, once it is known."""
        if self.resolution is None:
            raise ValueError("the resolution is not known before the model is")
        sides = [int(side) for side in self.resolution.split("x")]
        return sides[0], sides[-1]


SHARED = tuple(name for name in SubsetOptions.model_fields if name in DataOptions.model_fields and name != "path")
"""Options that a folder may have otherwise than the rest."""


def settle(options: DataOptions, own: SubsetOptions | None) -> DataOptions:
    """Give the options as they hold for one folder: its own where it has them."""
    if own is None:
        return options
    update = {name: value for name, value in own if name in SHARED and value is not None}
    if own.unmasked_weight is not None:
        update["mask"] = options.mask.model_copy(update={"unmasked_weight": own.unmasked_weight})
    return options.model_copy(update=update)
