"""Columns that hold many values in little memory, and read as the list they stand for."""
