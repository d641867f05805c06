"""The reproducible training of the demo model, in stages that resume where they stopped."""
