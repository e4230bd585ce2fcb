"""Reproduction of published numbers: files, smoke image, official recipe, verdict, and what to suspect."""
