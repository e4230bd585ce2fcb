"""Features of image sets: in memory, in chunks on disk, shared by processes."""
