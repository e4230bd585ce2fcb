"""Token-grid trunk: models that predict the tokens of one grid (LlamaGen, NAR, PAR)."""
