"""The mathematics of diffusion training: pure functions."""
