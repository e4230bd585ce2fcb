"""MAR: tokens of the map in random order, each denoised by a head on a bidirectional transformer's condition."""
