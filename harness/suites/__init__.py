"""Suites that are part of the package, one YAML file each."""
