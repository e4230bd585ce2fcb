"""Helpers for all families: modules on the meta device, and half precision."""
