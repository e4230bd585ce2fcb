"""Answer of a report: what was compared, what was found, and the summary by model, all computed from records."""
