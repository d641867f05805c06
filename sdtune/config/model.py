"""Options of the base model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sdtune.config.base import Options

Quantization = Literal["int8", "nf4"]
Attention = Literal["sdpa", "xformers", "math"]


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
    """Folder with vocab.json and merges.txt. null: `tokenizer` in a folder or beside a single file, else CLIP's own."""
    clip_skip: Annotated[int, Field(ge=1, le=12)] | None = None
    """Which hidden state of the text encoder is used: 1 the last, 2 the one before, as in webui. null: the family's."""
    chunks: Annotated[int, Field(ge=1, le=4)] = 1
    """Captions are read in up to so many pieces of 75 tokens, as webui reads long prompts."""
    quantize: Quantization | None = None
    """Hold linear layers of the frozen UNet and text encoder in 8 or 4 bits (nf4: bitsandbytes), for adapters in little
    memory; slower. Adapters stay in full digits; files are made from the weights as stored. null: all as computed."""
    attention: Attention = "sdpa"
    """What computes attention: torch's fused kernels, the package xformers, or plain sums and products (`math`)."""
    weighted_words: bool = False
    """Read `(word:1.3)` in captions and preview prompts as webui does; off: brackets are letters like others."""
