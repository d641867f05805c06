"""Which learning rate suits a run, found by short trainings that are thrown away."""
