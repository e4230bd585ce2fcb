"""Metrics as arithmetic on features; none knows a protocol or a record."""
