"""From gradients to new values: rates, optimizers, rounding, the running average."""
