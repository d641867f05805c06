"""Which size an image is trained at, and what of it is cut away."""
