"""This machine: libraries, cores, memory, GPU, limits, and how processes fail."""
