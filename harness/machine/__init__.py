"""This machine: libraries, cores, memory, GPU, limits, and failures of processes."""
