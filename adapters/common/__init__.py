"""Modules that several families are built from."""
