"""M-VAR: next-scale prediction with attention inside scales and Mamba-2 between them."""
