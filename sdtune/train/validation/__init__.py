"""Held-out images: how they are measured, and what follows from it."""
