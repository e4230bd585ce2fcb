"""Data sets and labels that the harness brings along."""
