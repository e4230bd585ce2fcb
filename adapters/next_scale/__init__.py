"""First trunk: models that predict a scale at a time (VAR, M-VAR, HMAR, FlexVAR)."""
