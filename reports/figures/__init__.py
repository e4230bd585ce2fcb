"""Figures of a report: each file has a function that turns records into one drawing."""
