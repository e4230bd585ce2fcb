"""Records of measurements: their schema, and numbers that others have published."""
