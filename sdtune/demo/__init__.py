"""The demo model: a small text-to-image model, the scenes it was trained on, and the judge that grades it."""
