"""From options to a run, before the first step."""
