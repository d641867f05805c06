"""Textual inversion: new words, nothing else changes."""
