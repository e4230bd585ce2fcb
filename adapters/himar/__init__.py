"""Hi-MAR: masked tokens of a coarse map first, then all tokens of the fine one, given what was known of the coarse."""
