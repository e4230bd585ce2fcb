"""Measurement of one case: correctness, time, memory, cache, quality, sample sheet. Adapters contain none of it."""
