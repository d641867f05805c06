"""A fine-tuning suite for Stable Diffusion."""
