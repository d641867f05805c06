"""Options of DreamBooth."""

from __future__ import annotations

from pydantic import model_validator

from sdtune.api import LearningRate, Options, Stop


class DreamBoothOptions(Options):
    """DreamBooth (Ruiz et al. 2022): a model's own weights learn a subject. `train.lr` has no effect on it."""

    unet_lr: LearningRate = 2e-6
    """Learning rate of the UNet; 0 does not train it. 2e-6 suits SD1 with AdamW and 4 to 30 images for about 100 steps
    an image; 1e-4, usual for adapters, destroys a model."""
    text_encoder: bool = False
    """Train the text encoder too: a likeness is met sooner, and other words suffer sooner."""
    text_encoder_lr: LearningRate = 1e-6
    """Learning rate of the text encoder, where `text_encoder` trains it. From 1e-6 to 5e-6."""
    text_encoder_stop: Stop | None = None
    """When the text encoder stops learning: a step, a fraction of the run such as 0.75, or `75%`. null: never."""
    diffusers: bool = False
    """Write a diffusers folder, NAME-diffusers, beside the single file."""
    lora: bool = False
    """Train a LoRA instead: the same as the method `lora`, whose section then has the further options."""

    @property
    def trains_unet(self) -> bool:
        """Tell whether the UNet learns."""
        return self.unet_lr != 0

    @property
    def trains_text_encoder(self) -> bool:
        """Tell whether the text encoder learns."""
        return self.text_encoder and self.text_encoder_lr != 0

    @model_validator(mode="after")
    def _check_together(self) -> DreamBoothOptions:
        if not (self.trains_unet or self.trains_text_encoder):
            raise ValueError("must train something: unet_lr above 0, or text_encoder=true with a rate above 0")
        if self.text_encoder_stop is not None and not self.text_encoder:
            raise ValueError("text_encoder_stop must come with text_encoder=true: nothing else learns there")
        return self
