"""LyCORIS algorithms and DyLoRA."""
