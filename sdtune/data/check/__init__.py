"""The doctor: what is wrong with a data set, why it matters, and how it is mended."""
