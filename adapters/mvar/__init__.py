"""M-VAR: Mamba-2 between scales."""
