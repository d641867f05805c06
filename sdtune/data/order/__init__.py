"""In which order images are seen: batches of one bucket, epoch by epoch."""
