"""Records of measurements: schema, reader, statistics, and recipes that others have published."""
