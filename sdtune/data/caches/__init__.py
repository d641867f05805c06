"""What was computed once: latents and text, kept in files that never change."""
