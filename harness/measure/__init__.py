"""Measurement of one case: correctness, time, memory, cache, quality, sample sheet. No model knows that it exists."""
