"""Selective scan of Mamba-2 with its causal convolution, continued from a state that it updates."""
