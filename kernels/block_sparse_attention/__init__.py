"""Attention between the tokens of all scales at once, as training has it, without an L x L mask."""
