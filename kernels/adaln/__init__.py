"""Adaptive LayerNorm (DiT's adaLN): modulation after a LayerNorm without parameters, and the gated residual add."""
