"""What a run computes on: device, memory, processes, clock and signals."""
