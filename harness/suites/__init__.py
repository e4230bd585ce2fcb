"""Suites: the YAML files of this package, their reader, and the official recipes that a suite may name."""
