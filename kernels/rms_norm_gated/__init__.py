"""RMSNorm behind a gate: the end of a Mamba-2 mixer, before its last projection."""
