"""Next-scale trunk: models that predict one scale per step (VAR, M-VAR, HMAR, FlexVAR)."""
