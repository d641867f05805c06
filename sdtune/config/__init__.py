"""Configuration: one strict schema, files with origins, and everything derived from them."""
