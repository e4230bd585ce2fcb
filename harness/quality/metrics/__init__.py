"""Metrics as pure arithmetic on features, independent of protocols and records."""
