"""The schema of a run: every option of the core, its type, default, bounds and meaning.

A method's own options stand in a section named after the method; `sdtune.config.compose` adds it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sdtune.config.base import Options
from sdtune.config.kinds import CaptionSource, Consumer, Fraction, PositiveInt, SamplerName, Size
from sdtune.config.objective import LossOptions, MaskOptions, NoiseOptions, TimestepOptions
from sdtune.config.optimizer import OptimizerOptions, RateRule, ScheduleOptions
from sdtune.config.rates import LearningRate


class ModelOptions(Options):
    """The base model."""

    path: str = "demo"
    """A webui single file, a diffusers folder, a hub id like `owner/name`, or `demo`: the small model of sdtune."""
    family: str = "auto"
    """Model family, e.g. `sd1`; `auto` reads it from the names and shapes in the file."""
    prediction: Literal["auto", "epsilon", "v_prediction", "sample"] = "auto"
    """What the model predicts; `auto` reads it from the file, the `.yaml` beside it or the folder's scheduler."""
    zero_terminal_snr: bool | None = None
    """Train and draw with a noise schedule that ends in pure noise; null does what the model says of itself."""
    vae: Path | None = None
    """Another VAE: a single file as webui's `models/VAE` has them, or a diffusers folder. null: the model's own."""
    tokenizer: Path | None = None
    """Folder with vocab.json and merges.txt, for single files, which have none. null looks in the usual places."""
    clip_skip: Annotated[int, Field(ge=1, le=12)] | None = None
    """Which hidden state of the text encoder is used: 1 the last, 2 the one before, as in webui. null: the family's."""
    chunks: Annotated[int, Field(ge=1, le=4)] = 1
    """Captions are read in up to so many pieces of 75 tokens, as webui reads long prompts."""
    weighted_words: bool = False
    """Read `(word:1.3)` in captions and preview prompts as webui does; off: brackets are letters like others."""


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


class GenerateOptions(Options):
    """Regularization images that are missing, drawn by the base model before training and kept for later runs."""

    per_image: Annotated[int, Field(ge=0, le=1000)] = 0
    """Images wanted for each training image; those that are there with the prompt count. 0: none are drawn."""
    negative: str = ""
    """Negative prompt."""
    sampler: SamplerName = "dpmpp_2m_karras"
    """Sampler."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 40
    """Sampling steps."""
    cfg: Annotated[float, Field(ge=1, le=50)] = 7.5
    """Guidance scale; 1 is no guidance."""
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 1
    """Seed of image 0; the others count up."""


class RegularizationOptions(Options):
    """Pictures of the subject's class, trained beside the subject's own, so that the class stays what it was."""

    path: Path | None = None
    """A folder of images, or of `N_name` folders; `1_dog` belongs to the training folder `10_zwx dog`. null: none, or
    for `generate` the user's cache folder."""
    prompt: str | None = None
    """Caption of images without a .txt or .caption file, and what is drawn, e.g. "a photo of a dog"; `[filewords]`: the
    caption of the image it is drawn for. null: the folder's name after N_."""
    generate: GenerateOptions = GenerateOptions()
    """Drawing what is missing."""
    ratio: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Visits of regularization images for one visit of a training image. All of them take turns over the epochs."""
    weight: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Weight of their loss against that of training images."""
    weight_end: Annotated[float, Field(ge=0, le=100)] | None = None
    """Their weight in the last epoch; it goes there in a straight line from the first. null: as `weight`."""

    @model_validator(mode="after")
    def _check_prompt(self) -> Self:
        if self.generate.per_image and not self.prompt:
            raise ValueError("prompt must say what generate.per_image draws, e.g. a photo of a dog")
        return self


class EmaOptions(Options):
    """A running average of what is trained; steadier than the last step when batches are small."""

    decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the old average kept at each step, e.g. 0.9999 for 10,000 steps, 0.99 for 300. null: no average."""
    power: Annotated[float, Field(gt=0, le=10)] | None = None
    """Warmup: the decay is at most 1 - (1 + step) ** -power; 0.67 suits long runs. null: `decay` from the start."""
    export: Literal["ema", "live", "both"] = "ema"
    """Which weights files and pictures have: the average, the last step, or both (the last step as NAME-live)."""


class TrainOptions(Options):
    """The loop."""

    steps: PositiveInt | None = None
    """Optimizer steps. Give `steps` or `epochs`; there is no default length."""
    epochs: PositiveInt | None = None
    """Epochs: visits of every image, times its repeats."""
    batch_size: PositiveInt = 1
    """Images in one forward and backward."""
    gradient_accumulation: PositiveInt = 1
    """Batches in one optimizer step."""
    lr: LearningRate = 1e-4
    """Learning rate where a part has none of its own. 1e-4 suits adapters with AdamW. Also webui's notation
    `0.005:100, 1e-3:1000`: a rate, and the step before which it applies; after the last one training ends."""
    rates: tuple[RateRule, ...] = ()
    """Other rates for some parameters, e.g. `- {match: "unet.down_blocks.*", scale: 0.5}`, for every method."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Clip the norm of all gradients together; 0 does not clip."""
    max_grad_value: Annotated[float, Field(gt=0)] | None = None
    """Clip each element of the gradients to this, before the norm; null does not."""
    optimizer: OptimizerOptions = OptimizerOptions()
    """The optimizer."""
    schedule: ScheduleOptions = ScheduleOptions()
    """The learning-rate schedule."""
    ema: EmaOptions = EmaOptions()
    """A running average of the weights."""
    latent_sampling: Literal["random", "once", "deterministic"] = "random"
    """What is taken of the VAE's answer for an image: a new sample at each visit, always the same one, or the mean."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Compute dtype of frozen parts (trained parameters stay fp32); `auto`: bf16 on a GPU, fp32 on a CPU."""
    gradient_checkpointing: bool = False
    """Compute activations again in backward: less memory, about a third slower."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of every draw; the same seed gives the same run."""
    min_timestep: Annotated[int, Field(ge=0, le=999)] = 0
    """First timestep trained."""
    max_timestep: Annotated[int, Field(ge=1, le=1000)] = 1000
    """End of the timestep range; not itself trained."""
    threads: PositiveInt | None = None
    """CPU threads; null leaves the choice to torch. Bit-equal resume needs the same number."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give either steps or epochs, not both")
        if self.min_timestep >= self.max_timestep:
            raise ValueError("min_timestep must be below max_timestep")
        return self


class SaveOptions(Options):
    """Checkpoints to resume from, and files to use."""

    every_steps: PositiveInt | None = None
    """Save a checkpoint every so many steps; the last step is always saved."""
    every_epochs: PositiveInt | None = None
    """Export a file (NAME-000002) every so many epochs; the last one is always exported (NAME)."""
    keep: PositiveInt = 2
    """How many checkpoints stay."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp16"
    """Precision of exported files."""


class PreviewOptions(Options):
    """Pictures drawn while training, always with the same seeds."""

    prompts: tuple[str, ...] = ()
    """What to draw; nothing is drawn without prompts."""
    negative: str = ""
    """Negative prompt."""
    every_steps: PositiveInt | None = None
    """Draw every so many steps."""
    every_epochs: PositiveInt | None = None
    """Draw every so many epochs. Before the first and after the last step pictures are always drawn."""
    sampler: SamplerName = "dpmpp_2m_karras"
    """Sampler."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    """Sampling steps."""
    cfg: Annotated[float, Field(ge=1, le=50)] = 7.0
    """Guidance scale; 1 is no guidance."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Seed of the first picture; the next ones count up."""
    size: Size | None = None
    """Side in px or WIDTHxHEIGHT; null: the resolution of the data."""


class OutputOptions(Options):
    """Where results go."""

    dir: Path | None = None
    """The run's folder, made for it; null: runs/NAME."""
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f/\\:*?\"<>|]+$")] | None = None
    """Name of the run and of its exported file; null: DATAFOLDER-METHOD."""
    webui_dir: Path | None = None
    """Folder of A1111 or Forge: finished files are copied to where it looks for them, as `sdtune export` does."""
    comfyui_dir: Path | None = None
    """Folder of ComfyUI: the same."""
    comment: str = ""
    """Written into the exported file's metadata."""
    certify: bool = True
    """After the last step, read the files back as other programs do, and compare the answers with the trained model's;
    it opens the base model a second time for that. What is found stands in the file's metadata."""
    consumers: tuple[Consumer, ...] = ()
    """Programs the files must work in, of a1111, comfyui, kohya and diffusers: it is an error when one does not read
    them as trained. Empty: all are asked, and what a program cannot do by nature is a warning; but where a copy goes to
    `webui_dir` or `comfyui_dir`, that program must read it."""


class LogOptions(Options):
    """What is written while training."""

    every_steps: PositiveInt = 1
    """Read and write loss and learning rates every so many steps."""
    tensorboard: bool = True
    """Write TensorBoard events into the run folder."""


class CoreOptions(Options):
    """A whole run, without the method's own section."""

    method: str = ""
    """How to train, or several ways joined by `+`; `sdtune plugins` lists them. Empty: the usual one."""
    model: ModelOptions = ModelOptions()
    """The base model."""
    data: DataOptions = DataOptions()
    """Images and captions."""
    regularization: RegularizationOptions = RegularizationOptions()
    """Pictures that keep the subject's class what it was (prior preservation), for every method."""
    loss: LossOptions = LossOptions()
    """What counts as an error."""
    noise: NoiseOptions = NoiseOptions()
    """The noise that is added."""
    timesteps: TimestepOptions = TimestepOptions()
    """How often each timestep is trained."""
    train: TrainOptions = TrainOptions()
    """The loop."""
    save: SaveOptions = SaveOptions()
    """Checkpoints and exported files."""
    preview: PreviewOptions = PreviewOptions()
    """Pictures while training."""
    output: OutputOptions = OutputOptions()
    """Where results go."""
    log: LogOptions = LogOptions()
    """Logs."""
