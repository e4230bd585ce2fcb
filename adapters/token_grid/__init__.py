"""Second trunk: models that predict tokens of one grid (LlamaGen, NAR, PAR)."""
