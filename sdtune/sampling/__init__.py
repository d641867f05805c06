"""Pictures from a model."""
