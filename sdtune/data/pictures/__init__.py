"""One image file: read, brought to sRGB, and made into the pixels and masks of a batch."""
