"""The interface between the loop and a model family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn.functional import pad

from sdtune.config.model import ModelOptions
from sdtune.models.quantize import exact

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from sdtune.diffusion.schedule import NoiseSchedule

Part = Literal["unet", "vae", "text_encoder"]  # what options and methods speak of; all text encoders are one part
Component = Literal["unet", "vae", "text_encoder", "text_encoder_2"]  # what lies in files
Prediction = Literal["epsilon", "v_prediction", "sample"]  # sample: x_0
TargetKind = Literal["attention", "resnet", "sampler", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a model's parts come from.

    Attributes:
        path: Single file or diffusers folder.
        name: Short name for metadata and logs, no folder.
        options: How the model is to be read.
        dtype: Dtype in which frozen parts are held and computed.
        device: Where parts live.
        trained_dtype: Dtype in which parts are held that are trained as a whole.
    """

    path: Path
    name: str
    dtype: torch.dtype
    device: torch.device
    trained_dtype: torch.dtype = torch.float32
    options: ModelOptions = field(default_factory=ModelOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """The VAE's answer for B images: mean and std, both (B, 4, h, w) float32, times the latent scaling factor."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """The text side of a step.

    Attributes:
        hidden: (B, L, D) hidden states for cross-attention.
        pooled: (B, P) pooled text, or None where the family has none.
        time_ids: (B, 6) original height and width, top and left of the crop, height and width of the picture, px; None
            where the family is not told, and for whole pictures.
        mask: (B, L) bool, false where a shorter caption is filled up; None where nothing is.
    """

    hidden: Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None
    mask: Tensor | None = None

    def to(self, device: torch.device) -> Conditioning:
        """Give the same on a device."""
        return Conditioning(
            hidden=self.hidden.to(device),
            pooled=None if self.pooled is None else self.pooled.to(device),
            time_ids=None if self.time_ids is None else self.time_ids.to(device),
            mask=None if self.mask is None else self.mask.to(device),
        )


def join_conditionings(conditionings: Sequence[Conditioning]) -> Conditioning:
    """Join along the batch; where lengths differ the shorter are filled up with zeros, and masked there."""
    lengths = {cond.hidden.shape[1] for cond in conditionings}
    longest = max(lengths)
    is_masked = len(lengths) > 1 or any(cond.mask is not None for cond in conditionings)
    return Conditioning(
        hidden=torch.cat([pad(cond.hidden, (0, 0, 0, longest - cond.hidden.shape[1])) for cond in conditionings]),
        pooled=_join([cond.pooled for cond in conditionings]),
        time_ids=_join([cond.time_ids for cond in conditionings]),
        mask=torch.cat([_mask(cond, longest) for cond in conditionings]) if is_masked else None,
    )


def _join(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    if len(present) not in (0, len(tensors)):
        raise ValueError("some conditionings have pooled text or sizes, others have none")
    return torch.cat(present) if present else None


def _mask(cond: Conditioning, length: int) -> Tensor:
    mask = cond.hidden.new_ones(cond.hidden.shape[:2], dtype=torch.bool) if cond.mask is None else cond.mask
    return pad(mask, (0, length - mask.shape[1]), value=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A frozen layer an adapter may act on.

    Attributes:
        path: Stable dotted name, `unet.`, `text_encoder.` or `text_encoder_2.` first, text encoders always in the
            `text_model.` form, e.g. `text_encoder.text_model.encoder.layers.0.self_attn.q_proj`; independent of library
            versions.
        module: The Linear or Conv2d.
        part: The part it belongs to.
        kind: `attention`: inside a transformer block, proj_in and proj_out included; `resnet`: inside a resnet;
            `sampler`: a down- or upsampler; `text`: attention and MLP of the text encoder.
        block: For block-wise options: `down_0`, `mid`, `up_3` in a UNet, `layer_11` in a text encoder.
        is_idle: No answer depends on it: it lies behind the hidden state that is used.
    """

    path: str
    module: nn.Module
    part: Part
    kind: TargetKind
    block: str
    is_idle: bool = False


class DiffusionModel(nn.Module, ABC):
    """A model whose parts are loaded when needed, frozen, in the compute dtype.

    Attributes:
        source: Where it came from.
        family: Name of the family, e.g. `sd1`.
        schedule: Noise schedule it was trained with.
        prediction: What the UNet predicts.
        latent_channels: Channels of the latents.
        latent_factor: Pixels per latent, each way.
        native_px: Side the family was trained at.
        clip_skip: Which hidden state of the text encoder is used: 1 the last, 2 the one before.
        is_exact: See `stored_weights`.
        is_hollow: See `hollow_files`.
    """

    source: ModelSource
    family: str
    schedule: NoiseSchedule
    prediction: Prediction
    latent_channels: int
    latent_factor: int
    native_px: int
    clip_skip: int
    is_exact: bool = False
    is_hollow: bool = False

    def describe(self) -> str:
        """Say in a few words what the model is and how that is known, for the plan."""
        return f"{self.family}, {self.prediction}"

    def notes(self) -> tuple[str, ...]:
        """List what may surprise a user of the model, one line each."""
        return ()

    @abstractmethod
    def load(self, part: Part) -> None:
        """Load a part tensor by tensor into the source's dtype, frozen and in eval mode; nothing if it is there.

        Raises:
            ModelError: The file lacks tensors, holds others, or shapes differ.
        """

    def load_empty(self, part: Part) -> None:
        """Put a part in its place as `load` does, with tensors that hold no values.

        For forecasts: it is called where tensors are fake, and the part is unloaded afterwards. The default loads it.
        """
        self.load(part)

    @abstractmethod
    def unload(self, part: Part) -> None:
        """Free a part's memory."""

    @abstractmethod
    def is_loaded(self, part: Part) -> bool:
        """Tell whether a part is there."""

    def lend(self, other: DiffusionModel, parts: Iterable[Part]) -> AbstractContextManager[None]:
        """Give another object of the same base model those loaded parts that are still the base, once methods are out.

        For as long as the context lasts they are out, and this model answers nothing; then it is as it was, with the
        same modules and parameters. Parts that are trained as a whole, packed, or changed in any other way are not
        given. The default gives none.
        """
        del other, parts
        return nullcontext()

    @abstractmethod
    def part(self, part: Part) -> nn.Module:
        """Give a loaded part's module; the UNet is diffusers' `UNet2DConditionModel`, and so on.

        Two text encoders are an `nn.ModuleDict` by component.
        """

    def dtype_of(self, part: Part) -> torch.dtype:
        """Tell what a frozen part is computed in: the source's dtype, unless the part needs more digits or range."""
        del part
        return self.source.dtype

    @contextmanager
    def stored_weights(self) -> Iterator[None]:
        """Let frozen layers that are held in few bits (`model.quantize`) give their weights as stored; slowly.

        Parts that are loaded meanwhile are loaded whole.
        """
        self.is_exact = True
        try:
            with exact(self):
                yield
        finally:
            self.is_exact = False

    @contextmanager
    def hollow_files(self) -> Iterator[None]:
        """Let files of the whole model be told at no cost: of matrices they hold shapes alone, on the meta device.

        A family that does not look at `is_hollow` gives whole files.
        """
        self.is_hollow = True
        try:
            yield
        finally:
            self.is_hollow = False

    @abstractmethod
    def part_digest(self, part: Part) -> str:
        """Hash a part's weights as stored (hex), without loading them; the key of caches."""

    @abstractmethod
    def encode_images(self, pixels: Tensor) -> Posterior:
        """Encode (B, 3, H, W) float32 pixels in [-1, 1]."""

    @abstractmethod
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode (B, 4, h, w) scaled latents to (B, 3, H, W) float32 pixels in [-1, 1]."""

    @property
    @abstractmethod
    def text_digest(self) -> str:
        """Hash everything `encode_prompt` depends on: weights, tokenizer, words, options, dtype; a key of caches."""

    @abstractmethod
    def count_tokens(self, caption: str) -> int:
        """Count tokens of a caption, without start and end marks; each vector of a word is one."""

    @abstractmethod
    def count_cut(self, caption: str) -> int:
        """Count those of a caption's tokens that find no room in `ModelOptions.chunks` pieces."""

    @abstractmethod
    def encode_prompt(self, captions: Sequence[str]) -> Conditioning:
        """Encode B captions; gradients flow if a trained parameter is inside."""

    @abstractmethod
    def denoise(self, x_t: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """Predict noise, v or x_0: x_t (B, 4, h, w), timesteps (B,) int64 in [0, 1000) -> (B, 4, h, w) float32."""

    @abstractmethod
    def targets(self, parts: Iterable[Part]) -> Iterator[Target]:
        """List adapter sites of loaded parts in a fixed order, chosen by name."""

    @abstractmethod
    def layers(self, part: Part) -> Iterator[tuple[str, nn.Module]]:
        """List every module inside a loaded part by its path, as in `Target.path`."""

    @abstractmethod
    def replace(self, path: str, module: nn.Module) -> None:
        """Put `module` where the layer `path` (as in `Target.path`) is now: so adapters come and go."""

    @abstractmethod
    def unfreeze(self, part: Part) -> dict[str, nn.Parameter]:
        """Make a whole part trainable: in the source's `trained_dtype`, computed in the source's dtype by autocast.

        Call it before anything is put into the part: the part is loaded anew where its dtype was another.

        Returns:
            Stable name (as `Target.path`, with `.weight`, `.bias`, ...) to parameter, in a fixed order; without idle
            ones, which no answer depends on.

        Raises:
            ConfigError: Frozen layers are to be held in few bits, and these are not frozen.
        """

    @abstractmethod
    def embed_tokens(self, text: str) -> dict[str, Tensor]:
        """Look up a text's token vectors, before the transformer and without start and end mark.

        Returns:
            Text encoder as webui names it (`clip_l`, and `clip_g` in SDXL) to (n, D) float32.
        """

    @abstractmethod
    def set_embeddings(self, embeddings: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Let words of captions stand for vectors, as webui does with the files in `embeddings/`.

        From now on `encode_prompt` puts the vectors where the tokens of a word stand, the longest word first; gradients
        flow into them. They replace what was set before, and stay the caller's: changing them changes the answer.

        Args:
            embeddings: Word to text encoder (`clip_l`, `clip_g`) to (n, D) vectors, 1 <= n <= 75.

        Raises:
            ModelError: A width is not the text encoder's, or a word has no tokens.
        """

    def embeddings(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Give the words that are set, as `set_embeddings` takes them. The default knows none."""
        return {}

    @abstractmethod
    def webui_key(self, path: str) -> str:
        """Name of a target in kohya-style files, e.g. `lora_unet_down_blocks_0_...`; `lora_te_text_model_...`."""

    @abstractmethod
    def webui_state_dict(self) -> dict[str, Tensor]:
        """All parts under the names of a webui single file: loaded ones as they are, the others as stored.

        Where a frozen part is held in fewer bits than it is stored in, the stored weights are given.
        """

    @abstractmethod
    def webui_metadata(self) -> dict[str, str]:
        """Give what shapes do not tell about the architecture, to be written into a single file."""

    def webui_sidecars(self) -> dict[str, bytes]:
        """Give what must lie beside a single file of this model: suffix (`.yaml`) to content; mostly nothing."""
        return {}

    @abstractmethod
    def diffusers_files(self) -> dict[str, Mapping[str, Tensor] | bytes]:
        """All parts as a diffusers folder: path inside with `/` to tensors or bytes, as `FolderArtifact.files`."""

    @abstractmethod
    def enable_gradient_checkpointing(self) -> None:
        """Recompute blocks of the loaded UNet (and text encoder) in backward."""
