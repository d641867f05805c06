"""The toy plugin, importing torch where it should not."""

import torch  # noqa: F401  # that is the fault

from sdtune_toy import sdtune_methods  # noqa: F401
