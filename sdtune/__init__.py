"""Fine-tune Stable Diffusion: one core, one loop, every method a plugin."""

__version__ = "0.1.0"
