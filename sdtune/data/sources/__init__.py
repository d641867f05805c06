"""Which images there are: folders, lists, archives, and what of them is left alone."""
