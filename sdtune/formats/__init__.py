"""The files of other programs: what a file is, how each program reads it, and the ways from one form to another."""
