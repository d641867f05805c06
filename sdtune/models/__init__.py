"""Model families: loading, naming, and one interface for the loop."""
