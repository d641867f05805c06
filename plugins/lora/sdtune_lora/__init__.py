"""LoRA and LoCon for every model family."""
