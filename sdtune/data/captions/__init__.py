"""From what was written about an image to what the text encoder gets."""
