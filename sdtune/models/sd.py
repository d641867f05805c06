"""Stable Diffusion 1: one UNet, one VAE, one CLIP text encoder, from a single file or a diffusers folder."""

from __future__ import annotations

import gc
import hashlib
import json
import re
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sdtune.diffusion.schedule import NoiseSchedule
from sdtune.errors import ModelError
from sdtune.models import build, libraries, naming, snapshot
from sdtune.models.architecture import SD1, SDFamily, count_text_layers
from sdtune.models.base import Conditioning, DiffusionModel, ModelSource, Part, Posterior, Prediction, Target
from sdtune.models.digest import part_digest
from sdtune.models.pieces import emphasize, join_pieces, stack_rows
from sdtune.models.prompt import Marks, Reading, read_pieces
from sdtune.models.storage import CONFIG_KEY, PARTS, StoredPart, open_storage, to_webui
from sdtune.models.targets import list_targets
from sdtune.models.tokenizer import MAX_LENGTH, find_tokenizer, load_tokenizer, tokenizer_files
from sdtune.models.words import Words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

_SCALING_FACTOR = 0.18215
_V_MARK = "v_pred"  # an empty tensor in a single file that tells ComfyUI the same
CLIP_L = "clip_l"


class StableDiffusion(DiffusionModel):
    """SD1 and SD2: one class, since they differ in data.

    Raises:
        ModelError: A part is missing from the file or folder, or `clip_skip` leaves no layer.
    """

    latent_channels = 4
    latent_factor = 8

    def __init__(self, source: ModelSource, family: SDFamily) -> None:
        super().__init__()
        self._storage = open_storage(source.path)
        missing = [part for part in PARTS if part not in self._storage.parts]
        if missing:
            raise ModelError(f"{source.path} has no {' and no '.join(missing)}", hint="a complete model has all parts")
        layers = count_text_layers(self._stored("text_encoder").shapes)
        self.clip_skip = source.options.clip_skip or 1
        if self.clip_skip > layers:
            raise ModelError(
                f"clip_skip is {self.clip_skip}, but the text encoder has {layers} layers", where="model.clip_skip"
            )
        self._family = family
        self.source = source
        self.family = family.name
        self.native_px = (self._stored("unet").config.get("sample_size") or 0) * self.latent_factor or family.native_px
        self.schedule = _schedule(self._storage.scheduler)
        self._words = Words()
        self.prediction = _prediction(self._storage.scheduler, self._storage.shapes, family)

    def load(self, part: Part) -> None:
        """See `DiffusionModel.load`."""
        if not self.is_loaded(part):
            self._build(part, self.source.dtype)

    def _build(self, part: Part, dtype: torch.dtype) -> None:
        module = build.build_part(self._stored(part), self._family, dtype=dtype, device=self.source.device)
        self.add_module(part, module)
        if part == "text_encoder":
            self._words.hook(self._token_embedding())

    def unload(self, part: Part) -> None:
        """See `DiffusionModel.unload`."""
        if self.is_loaded(part):
            delattr(self, part)
        gc.collect()  # modules are full of reference cycles: without this the memory stays until some later collection

    def is_loaded(self, part: Part) -> bool:
        """See `DiffusionModel.is_loaded`."""
        return part in self._modules

    def part(self, part: Part) -> nn.Module:
        """See `DiffusionModel.part`.

        Raises:
            RuntimeError: The part is not loaded.
        """
        if not self.is_loaded(part):
            raise RuntimeError(f"the {part} is not loaded; call load({part!r}) first")
        return self.get_submodule(part)

    def part_digest(self, part: Part) -> str:
        """See `DiffusionModel.part_digest`."""
        return part_digest(self._stored(part))

    @property
    def text_digest(self) -> str:
        """See `DiffusionModel.text_digest`."""
        options = self.source.options
        place = find_tokenizer(self.source.path, options.tokenizer)
        facts = (self.part_digest("text_encoder"), self.clip_skip, options.chunks, options.weighted_words)
        digest = hashlib.blake2b(repr((*facts, self.source.dtype)).encode(), digest_size=16)
        for name, content in sorted(tokenizer_files(place).items()):
            digest.update(f"{name}\x1f{len(content)}\x1f".encode() + content)
        self._words.feed(digest)
        return digest.hexdigest()

    def encode_images(self, pixels: Tensor) -> Posterior:
        """See `DiffusionModel.encode_images`; gradients are not kept."""
        vae: Any = self.part("vae")
        with torch.no_grad():
            posterior = vae.encode(pixels.to(self.source.device, self.source.dtype)).latent_dist
        scale = self._scaling_factor
        return Posterior(mean=posterior.mean.float() * scale, std=posterior.std.float() * scale)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """See `DiffusionModel.decode_latents`; gradients are not kept."""
        vae: Any = self.part("vae")
        unscaled = latents.float() / self._scaling_factor
        with torch.no_grad():
            pixels: Tensor = vae.decode(unscaled.to(self.source.device, self.source.dtype), return_dict=False)[0]
        return pixels.float().clamp(-1, 1)

    def count_tokens(self, caption: str) -> int:
        """See `DiffusionModel.count_tokens`."""
        return self._read(caption).count

    def count_cut(self, caption: str) -> int:
        """See `DiffusionModel.count_cut`."""
        return self._read(caption).cut

    def _read(self, caption: str) -> Reading:
        options, tokenizer = self.source.options, self.tokenizer
        marks = Marks(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        sections = self._words.read(tokenizer, caption, weighted=options.weighted_words)
        return read_pieces(sections, length=tokenizer.model_max_length, most=options.chunks, marks=marks)

    def encode_prompt(self, captions: Sequence[str]) -> Conditioning:
        """See `DiffusionModel.encode_prompt`; what is beyond the pieces allowed is cut off."""
        readings = [self._read(caption) for caption in captions]
        tokens, weights = stack_rows([row for reading in readings for row in reading.rows])
        with self._computing("text_encoder"):
            hidden = emphasize(self._encode_tokens(tokens.to(self.source.device)), weights)
        return join_pieces(hidden, None, [len(reading.rows) for reading in readings])

    def _encode_tokens(self, tokens: Tensor) -> Tensor:
        encoder: Any = self.part("text_encoder")
        skip = self.clip_skip
        if skip == 1:
            last: Tensor = encoder(tokens).last_hidden_state
            return last
        states = encoder(tokens, output_hidden_states=True).hidden_states
        norm: nn.Module = encoder.get_submodule(self._module_path("text_encoder", "text_model.final_layer_norm"))
        skipped: Tensor = norm(states[-skip])
        return skipped

    def denoise(self, x_t: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """See `DiffusionModel.denoise`."""
        unet = self.part("unet")
        dtype = next(unet.parameters()).dtype
        with self._computing("unet"):
            answer: Tensor = unet(
                x_t.to(dtype),
                timesteps,
                cond.hidden.to(dtype),
                encoder_attention_mask=cond.mask,
                return_dict=False,
            )[0]
        return answer.float()

    def _computing(self, part: Part) -> AbstractContextManager[Any]:
        """Compute in the source's dtype, also where a trained part is held in float32."""
        dtype = self.source.dtype
        if next(self.part(part).parameters()).dtype == dtype:
            return nullcontext()
        return torch.autocast(self.source.device.type, dtype=dtype)

    def unfreeze(self, part: Part) -> dict[str, nn.Parameter]:
        """See `DiffusionModel.unfreeze`."""
        if self.is_loaded(part) and self.source.dtype != torch.float32:
            self.unload(part)
        if not self.is_loaded(part):
            self._build(part, torch.float32)
        module = self.part(part).requires_grad_(True)
        prefix = build.module_prefix(module, part)
        return {f"{part}.{prefix}{name}": parameter for name, parameter in module.named_parameters()}

    def embed_tokens(self, text: str) -> dict[str, Tensor]:
        """See `DiffusionModel.embed_tokens`; loads the text encoder."""
        self.load("text_encoder")
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return {CLIP_L: self._token_embedding().weight.detach()[ids].float()}

    def set_embeddings(self, embeddings: Mapping[str, Mapping[str, Tensor]]) -> None:
        """See `DiffusionModel.set_embeddings`; loads the text encoder."""
        self.load("text_encoder")
        vectors = {word: encoders[CLIP_L] for word, encoders in embeddings.items()}
        self._words.replace(self.tokenizer, self._token_embedding(), vectors)

    def _token_embedding(self) -> nn.Embedding:
        path = self._module_path("text_encoder", "text_model.embeddings.token_embedding")
        embedding = self.part("text_encoder").get_submodule(path)
        assert isinstance(embedding, nn.Embedding)
        return embedding

    def targets(self, parts: Iterable[Part]) -> Iterator[Target]:
        """See `DiffusionModel.targets`; the order is that of the modules."""
        for part in parts:
            module = self.part(part)
            prefix = build.module_prefix(module, part)
            yield from list_targets(part, ((prefix + name, child) for name, child in module.named_modules() if name))

    def replace(self, path: str, module: nn.Module) -> None:
        """See `DiffusionModel.replace`.

        Raises:
            AttributeError: There is no such layer.
        """
        part, _, name = path.partition(".")
        root = self.get_submodule(part)
        root.set_submodule(self._module_path(part, name), module, strict=True)

    def webui_key(self, path: str) -> str:
        """See `DiffusionModel.webui_key`."""
        return naming.kohya_key(path)

    def webui_state_dict(self) -> dict[str, Tensor]:
        """See `DiffusionModel.webui_state_dict`."""
        tensors: dict[str, Tensor] = {}
        for part in PARTS:
            weights = self._weights(part)
            tensors.update((new, weights[old]) for old, new in to_webui(part, list(weights)).items())
        mark = {_V_MARK: torch.zeros(0)} if self.prediction != self._family.prediction else {}
        return {name: _as_ldm(name, tensor) for name, tensor in tensors.items()} | mark

    def diffusers_files(self) -> dict[str, Mapping[str, Tensor] | bytes]:
        """See `DiffusionModel.diffusers_files`."""
        files: dict[str, Mapping[str, Tensor] | bytes] = {}
        for part in PARTS:
            empty = build.build_empty(self._stored(part), self._family)
            files |= snapshot.part_files(part, empty, _as_diffusers(part, self._weights(part)))
        place = find_tokenizer(self.source.path, self.source.options.tokenizer)
        files |= {f"tokenizer/{name}": content for name, content in tokenizer_files(place).items()}
        return files | snapshot.pipeline_files(self._storage.scheduler, self.prediction)

    def webui_metadata(self) -> dict[str, str]:
        """See `DiffusionModel.webui_metadata`."""
        configs = {part: dict(self._stored(part).config) for part in PARTS if self._stored(part).config}
        return {CONFIG_KEY: json.dumps(configs)} if configs else {}

    def enable_gradient_checkpointing(self) -> None:
        """See `DiffusionModel.enable_gradient_checkpointing`."""
        if self.is_loaded("unet"):
            unet: Any = self.part("unet")
            unet.enable_gradient_checkpointing()
        if self.is_loaded("text_encoder"):
            libraries.checkpoint_text_encoder(self.part("text_encoder"))

    @cached_property
    def tokenizer(self) -> Any:
        """The `CLIPTokenizer` of transformers.

        Raises:
            ModelError: None is found, or it does not belong to this text encoder.
        """
        place = find_tokenizer(self.source.path, self.source.options.tokenizer)
        tokenizer = load_tokenizer(place)
        rows = self._stored("text_encoder").shapes["text_model.embeddings.token_embedding.weight"][0]
        if len(tokenizer) > rows:
            raise ModelError(
                f"the tokenizer {place} has {len(tokenizer)} tokens, the text encoder {rows}",
                where=str(self.source.path),
                hint="give the model's own tokenizer: model.tokenizer",
            )
        tokenizer.model_max_length = min(tokenizer.model_max_length, MAX_LENGTH)
        return tokenizer

    @cached_property
    def _scaling_factor(self) -> float:
        return float(self._stored("vae").config.get("scaling_factor", _SCALING_FACTOR))

    def _stored(self, part: Part) -> StoredPart:
        return self._storage.parts[part]

    def _module_path(self, part: str, name: str) -> str:
        prefix = build.module_prefix(self.get_submodule(part), part)
        return name.removeprefix(prefix)

    def _weights(self, part: Part) -> Mapping[str, Tensor]:
        """Map canonical names to the tensors of a part, loaded or stored."""
        if not self.is_loaded(part):
            stored = self._stored(part)
            return {name: stored.read(name) for name in stored.names}
        module, stored = self.part(part), self._stored(part)
        prefix = build.module_prefix(module, part)
        return {prefix + name: _unrounded(t, stored, prefix + name) for name, t in module.state_dict().items()}


class StableDiffusion1(StableDiffusion):
    """Stable Diffusion 1.x."""

    def __init__(self, source: ModelSource) -> None:
        super().__init__(source, SD1)


def _unrounded(tensor: Tensor, stored: StoredPart, name: str) -> Tensor:
    """Give a weight as stored where what is held is that, in fewer bits."""
    if tensor.dtype == torch.float32 or name not in stored.names:
        return tensor
    whole = stored.read(name).reshape(tensor.shape)
    return whole if torch.equal(whole.to(tensor.dtype), tensor.cpu()) else tensor


def _as_diffusers(part: Part, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the VAE's attention weights diffusers' shape, that of a linear layer."""
    if part != "vae":
        return dict(weights)
    return {name: t.flatten(1) if naming.is_vae_attention(name) else t for name, t in weights.items()}


def _as_ldm(name: str, tensor: Tensor) -> Tensor:
    """Give the VAE's attention weights ldm's shape, that of a 1x1 convolution."""
    is_attention = re.fullmatch(r"first_stage_model\.\w+\.mid\.attn_1\.(?:q|k|v|proj_out)\.weight", name)
    return tensor.reshape(*tensor.shape[:2], 1, 1) if is_attention else tensor


def _schedule(config: Mapping[str, Any]) -> NoiseSchedule:
    shape = config.get("beta_schedule", "scaled_linear")
    if shape != "scaled_linear":
        raise ModelError(f"the model's noise schedule is {shape!r}; only 'scaled_linear' is trained")
    return NoiseSchedule.scaled_linear(
        int(config.get("num_train_timesteps", 1000)),
        float(config.get("beta_start", 0.00085)),
        float(config.get("beta_end", 0.012)),
    )


def _prediction(config: Mapping[str, Any], shapes: Mapping[str, Any], family: SDFamily) -> Prediction:
    if _V_MARK in shapes:
        return "v_prediction"
    found = config.get("prediction_type", family.prediction)
    if found == "epsilon":
        return "epsilon"
    if found == "v_prediction":
        return "v_prediction"
    raise ModelError(f"the model predicts {found!r}; only 'epsilon' and 'v_prediction' are trained")
