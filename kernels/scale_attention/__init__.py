"""Attention of the new tokens of one scale to a preallocated cache of all earlier ones, which they join."""
