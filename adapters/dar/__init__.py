"""D-AR: a sequence of tokens, decoded into pixels by a few steps of a diffusion model."""
