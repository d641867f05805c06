"""From the timetable to the tensors of a step: caches, batches, workers."""
