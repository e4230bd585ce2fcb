"""Reports: one HTML page, Markdown and a terminal table, all from records and without access to models."""
