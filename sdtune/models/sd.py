"""Stable Diffusion 1, 2 and XL: a UNet, a VAE and CLIP text encoders, from a single file or a diffusers folder."""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sdtune.errors import ModelError
from sdtune.models import build, libraries, naming, vae
from sdtune.models.architecture import SD1, SD2, SDXL, SDFamily, count_rows, count_text_layers
from sdtune.models.attention import choose_attention
from sdtune.models.autoencoder import Autoencoder
from sdtune.models.base import Component, Conditioning, DiffusionModel, ModelSource, Part, Posterior, Target
from sdtune.models.digest import part_digest
from sdtune.models.leftovers import leftover_notes
from sdtune.models.pieces import Pieces, join_pieces
from sdtune.models.prediction import make_schedule, read_parameterization
from sdtune.models.quantize import check_quantization, check_whole, describe_quantization
from sdtune.models.storage import StoredPart, open_storage
from sdtune.models.targets import list_targets
from sdtune.models.text_encoder import TextEncoder, check_counts, digest_reading
from sdtune.models.tokenizer import find_tokenizer, open_tokenizer, tokenizer_files
from sdtune.models.untouched import Loaded, lending
from sdtune.models.whole import WholeModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from sdtune.models.prompt import Reading


class StableDiffusion(DiffusionModel):
    """SD1, SD2 and SDXL: one class, since they differ in data.

    Raises:
        ModelError: A component is missing from the file or folder, or `clip_skip` leaves no layer.
    """

    latent_channels = 4
    latent_factor = 8

    def __init__(self, source: ModelSource, family: SDFamily) -> None:
        super().__init__()
        check_quantization(source.options.quantize)
        stored = open_storage(source.path, family)
        self._storage = vae.replace_vae(stored, source.options.vae, family)
        missing = [component for component in family.components if component not in self._storage.components]
        if missing:
            hint = "give one, model.vae=FILE" if missing == ["vae"] else "a complete model has all parts"
            raise ModelError(f"{source.path} has no {' and no '.join(missing)}", hint=hint)
        self._leftover_notes = tuple(leftover_notes(stored))
        self._family = family
        self._loaded: dict[Component, Loaded] = {}
        self.source = source
        self.family = family.name
        self._parameterization = read_parameterization(source.options, self._storage, family)
        self.prediction = self._parameterization.prediction
        self.native_px = self._native_px()
        self.schedule = make_schedule(self._storage.scheduler, is_zero_snr=self._parameterization.zero_snr)
        self._autoencoder = Autoencoder(self._stored("vae"), family, dtype=source.dtype, device=source.device)
        self.clip_skip = source.options.clip_skip or family.clip_skip
        self._texts = tuple(
            TextEncoder(
                text,
                family,
                layers=count_text_layers(self._stored(text.component).shapes),
                clip_skip=self.clip_skip,
            )
            for text in family.texts
        )

    def _native_px(self) -> int:
        own_px = (self._stored("unet").config.get("sample_size") or 0) * self.latent_factor
        return own_px or (self.prediction == "v_prediction" and self._family.v_px) or self._family.native_px

    def describe(self) -> str:
        """See `DiffusionModel.describe`."""
        options = self.source.options
        packed = describe_quantization(self, options.quantize)
        return f"{self.family}, {self._parameterization}{vae.name_of(options.vae)}{packed}"

    def notes(self) -> tuple[str, ...]:
        """See `DiffusionModel.notes`."""
        notes = [*self._parameterization.notes, *self._leftover_notes]
        if self.dtype_of("vae") != self.source.dtype:
            notes.append("the VAE is computed in float32: numbers of such a VAE are too large for float16")
        return tuple(notes)

    def load(self, part: Part) -> None:
        """See `DiffusionModel.load`."""
        quantize = None if part == "vae" or self.is_exact else self.source.options.quantize
        self._add(part, self.dtype_of(part), partial(build.build_part, quantize=quantize))

    def load_empty(self, part: Part) -> None:
        """See `DiffusionModel.load_empty`."""
        self._add(part, self.dtype_of(part), build.build_hollow)

    def dtype_of(self, part: Part) -> torch.dtype:
        """See `DiffusionModel.dtype_of`."""
        return self._autoencoder.dtype if part == "vae" else self.source.dtype

    def _add(self, part: Part, dtype: torch.dtype, make: Callable[..., nn.Module]) -> None:
        if self.is_loaded(part):
            return
        for component in self._family.components_of(part):
            module = make(self._stored(component), self._family, dtype=dtype, device=self.source.device)
            choose_attention(module, component, self.source.options.attention)
            self.add_module(component, module)
            self._loaded[component] = Loaded(module, self._stored(component))
        if part == "text_encoder":
            for text in self._texts:
                text.words.hook(self._token_embedding(text))

    def unload(self, part: Part) -> None:
        """See `DiffusionModel.unload`."""
        if not self.is_loaded(part):
            return
        for component in self._family.components_of(part):
            delattr(self, component)
        if part == "vae":
            self._autoencoder.release()
        gc.collect()  # modules are full of reference cycles: without this the memory stays until some later collection

    def lend(self, other: DiffusionModel, parts: Iterable[Part]) -> AbstractContextManager[None]:
        """See `DiffusionModel.lend`."""
        given = {part: self._family.components_of(part) for part in parts if self.is_loaded(part)}
        return lending(given, self._loaded, other, [text.words for text in self._texts])

    def is_loaded(self, part: Part) -> bool:
        """See `DiffusionModel.is_loaded`."""
        return all(component in self._modules for component in self._family.components_of(part))

    def part(self, part: Part) -> nn.Module:
        """See `DiffusionModel.part`.

        Raises:
            RuntimeError: The part is not loaded.
        """
        if not self.is_loaded(part):
            raise RuntimeError(f"the {part} is not loaded; call load({part!r}) first")
        modules: dict[str, nn.Module] = {
            component: self.get_submodule(component) for component in self._family.components_of(part)
        }
        return nn.ModuleDict(modules) if len(modules) > 1 else modules[part]

    def part_digest(self, part: Part) -> str:
        """See `DiffusionModel.part_digest`."""
        return "".join(part_digest(self._stored(component)) for component in self._family.components_of(part))

    @property
    def text_digest(self) -> str:
        """See `DiffusionModel.text_digest`."""
        options = self.source.options
        reading = (self.clip_skip, options.chunks, options.weighted_words, self.source.dtype, options.quantize)
        facts = (self.family, self.part_digest("text_encoder"), *reading)
        return digest_reading(facts, tokenizer_files(self._tokenizer_folder), [text.words for text in self._texts])

    def encode_images(self, pixels: Tensor) -> Posterior:
        """See `DiffusionModel.encode_images`; gradients are not kept."""
        return self._autoencoder.encode(self.part("vae"), pixels)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """See `DiffusionModel.decode_latents`; gradients are not kept."""
        return self._autoencoder.decode(self.part("vae"), latents)

    def count_tokens(self, caption: str) -> int:
        """See `DiffusionModel.count_tokens`."""
        return self._read(self._texts[0], caption).count

    def count_cut(self, caption: str) -> int:
        """See `DiffusionModel.count_cut`."""
        return self._read(self._texts[0], caption).cut

    def _read(self, text: TextEncoder, caption: str) -> Reading:
        return text.read(self.tokenizer, caption, self.source.options)

    def encode_prompt(self, captions: Sequence[str]) -> Conditioning:
        """See `DiffusionModel.encode_prompt`; what finds no room in the pieces allowed is cut off."""
        with self._computing("text_encoder"):
            answers = [self._encode(text, captions) for text in self._texts]
        return join_pieces(answers)

    def _encode(self, text: TextEncoder, captions: Sequence[str]) -> Pieces:
        readings = [self._read(text, caption) for caption in captions]
        return text.encode(self.get_submodule(text.text.component), readings, self.tokenizer.eos_token_id)

    def denoise(self, x_t: Tensor, timesteps: Tensor, cond: Conditioning) -> Tensor:
        """See `DiffusionModel.denoise`."""
        unet = self.part("unet")
        dtype = next(unet.parameters()).dtype
        added = None
        if cond.pooled is not None:
            sizes = self._whole_picture(x_t) if cond.time_ids is None else cond.time_ids
            added = {"text_embeds": cond.pooled.to(dtype), "time_ids": sizes}
        with self._computing("unet"):
            answer: Tensor = unet(
                x_t.to(dtype),
                timesteps,
                cond.hidden.to(dtype),
                encoder_attention_mask=cond.mask,
                added_cond_kwargs=added,
                return_dict=False,
            )[0]
        return answer.float()

    def _whole_picture(self, x_t: Tensor) -> Tensor:
        """Tell that pictures were taken at this size and not cropped (Podell et al. 2023, section 2.2)."""
        height, width = (side * self.latent_factor for side in x_t.shape[-2:])
        return torch.tensor([[height, width, 0, 0, height, width]], device=x_t.device).expand(len(x_t), -1)

    def _computing(self, part: Part) -> AbstractContextManager[Any]:
        """Compute in the source's dtype, also where a trained part is held in another."""
        dtype = self.source.dtype
        if next(self.part(part).parameters()).dtype == dtype:
            return nullcontext()
        return torch.autocast(self.source.device.type, dtype=dtype)

    def unfreeze(self, part: Part) -> dict[str, nn.Parameter]:
        """See `DiffusionModel.unfreeze`."""
        check_whole(part, self.source.options.quantize)
        if self.is_loaded(part) and self.source.dtype != self.source.trained_dtype:
            self.unload(part)
        self._add(part, self.source.trained_dtype, build.build_part)
        parameters: dict[str, nn.Parameter] = {}
        for component, module, prefix in self._modules_of(part):
            named = ((f"{component}.{prefix}{name}", parameter) for name, parameter in module.named_parameters())
            parameters.update((path, parameter) for path, parameter in named if not self._is_idle(path))
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        return parameters

    def _modules_of(self, part: Part) -> Iterator[tuple[Component, nn.Module, str]]:
        """Give each component's module, and what stands before its names to make them canonical."""
        self.part(part)
        for component in self._family.components_of(part):
            module = self.get_submodule(component)
            yield component, module, build.module_prefix(module, component)

    def embed_tokens(self, text: str) -> dict[str, Tensor]:
        """See `DiffusionModel.embed_tokens`; loads the text encoder."""
        self.load("text_encoder")
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return {text.text.word_key: self._token_embedding(text).weight.detach()[ids].float() for text in self._texts}

    def set_embeddings(self, embeddings: Mapping[str, Mapping[str, Tensor]]) -> None:
        """See `DiffusionModel.set_embeddings`; loads the text encoder."""
        self.load("text_encoder")
        check_counts(embeddings)
        for text in self._texts:
            text.place_words(self.tokenizer, self._token_embedding(text), embeddings)

    def embeddings(self) -> dict[str, dict[str, Tensor]]:
        """See `DiffusionModel.embeddings`."""
        words = self._texts[0].words.vectors
        return {word: {text.text.word_key: text.words.vectors[word] for text in self._texts} for word in words}

    def _token_embedding(self, text: TextEncoder) -> nn.Embedding:
        module = self.get_submodule(text.text.component)
        prefix = build.module_prefix(module, text.text.component)
        embedding = module.get_submodule("text_model.embeddings.token_embedding".removeprefix(prefix))
        assert isinstance(embedding, nn.Embedding)
        return embedding

    def targets(self, parts: Iterable[Part]) -> Iterator[Target]:
        """See `DiffusionModel.targets`; the order is that of the modules."""
        for part in parts:
            for component, module, prefix in self._modules_of(part):
                layers = ((prefix + name, child) for name, child in module.named_modules() if name)
                for target in list_targets(part, component, layers):
                    yield replace(target, is_idle=self._is_idle(target.path))

    def _is_idle(self, path: str) -> bool:
        component, _, name = path.partition(".")
        return any(text.is_idle(name) for text in self._texts if text.text.component == component)

    def layers(self, part: Part) -> Iterator[tuple[str, nn.Module]]:
        """See `DiffusionModel.layers`."""
        for component, module, prefix in self._modules_of(part):
            for name, child in module.named_modules():
                if name:
                    yield f"{component}.{prefix}{name}", child

    def replace(self, path: str, module: nn.Module) -> None:
        """See `DiffusionModel.replace`.

        Raises:
            AttributeError: There is no such layer.
        """
        component, _, name = path.partition(".")
        root = self.get_submodule(component)
        root.set_submodule(name.removeprefix(build.module_prefix(root, component)), module, strict=True)

    def webui_key(self, path: str) -> str:
        """See `DiffusionModel.webui_key`.

        Raises:
            KeyError: There can be no such layer.
        """
        component, _, name = path.partition(".")
        if component != "unet":
            return naming.kohya_key(self._family.text(component).adapter_prefix, name)
        unet_name = self._ldm_unet_names(name) if self._family.has_ldm_adapters else name
        return naming.kohya_key(naming.UNET_ADAPTER_PREFIX, unet_name)

    @cached_property
    def _ldm_unet_names(self) -> naming.Renaming:
        return naming.unet_renaming(naming.unet_layout(self._stored("unet").entries))

    def webui_state_dict(self) -> dict[str, Tensor]:
        """See `DiffusionModel.webui_state_dict`."""
        return self._whole.webui_state_dict()

    def webui_sidecars(self) -> dict[str, bytes]:
        """See `DiffusionModel.webui_sidecars`."""
        return self._whole.webui_sidecars()

    def webui_metadata(self) -> dict[str, str]:
        """See `DiffusionModel.webui_metadata`."""
        return self._whole.webui_metadata()

    def diffusers_files(self) -> dict[str, Mapping[str, Tensor] | bytes]:
        """See `DiffusionModel.diffusers_files`."""
        return self._whole.diffusers_files()

    @property
    def _whole(self) -> WholeModel:
        return WholeModel(
            source=self.source,
            family=self._family,
            storage=self._storage,
            modules=self._modules,
            prediction=self.prediction,
            has_zero_snr=self.schedule.has_zero_snr,
            scaling_factor=self._autoencoder.scaling_factor,
            is_hollow=self.is_hollow,
        )

    def enable_gradient_checkpointing(self) -> None:
        """See `DiffusionModel.enable_gradient_checkpointing`."""
        if self.is_loaded("unet"):
            unet: Any = self.part("unet")
            unet.enable_gradient_checkpointing()
        if self.is_loaded("text_encoder"):
            for _, module, _ in self._modules_of("text_encoder"):
                libraries.checkpoint_text_encoder(module)

    @cached_property
    def tokenizer(self) -> Any:
        """The `CLIPTokenizer` of transformers.

        Raises:
            ModelError: None is found, or it does not belong to this text encoder.
        """
        return open_tokenizer(self._tokenizer_folder, count_rows(self._stored("text_encoder").shapes))

    @property
    def _tokenizer_folder(self) -> Path | None:
        rows = count_rows(self._stored("text_encoder").shapes)
        return find_tokenizer(self.source.path, self.source.options.tokenizer, rows)

    def _stored(self, component: Component) -> StoredPart:
        return self._storage.components[component]


class StableDiffusion1(StableDiffusion):
    """Stable Diffusion 1.x."""

    def __init__(self, source: ModelSource) -> None:
        super().__init__(source, SD1)


class StableDiffusion2(StableDiffusion):
    """Stable Diffusion 2.x."""

    def __init__(self, source: ModelSource) -> None:
        super().__init__(source, SD2)


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL, the base model."""

    def __init__(self, source: ModelSource) -> None:
        super().__init__(source, SDXL)
