"""Measuring: time, memory, KV cache, correctness and the environment. No model knows that this exists."""
