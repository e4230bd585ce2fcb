"""Records of measurements: schema, reader, statistics, and published sampling recipes."""
