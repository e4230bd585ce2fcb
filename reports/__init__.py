"""Reports: records in; one HTML page, Markdown and a terminal table out. Reads records, never models."""
