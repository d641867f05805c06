"""Who looks at a run and never changes it: logs, previews, the watch over its numbers."""
