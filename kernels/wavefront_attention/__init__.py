"""Attention of the few new tokens of one pass of a token-grid model to a preallocated cache, which they join."""
