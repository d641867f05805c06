"""What a run needs of memory and time, found out before it starts."""
