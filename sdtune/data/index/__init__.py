"""The data set as it was found: read once, checked, remembered, and divided for training and validation."""
