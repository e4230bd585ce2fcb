"""Helpers of all families: modules without memory, and half precision."""
