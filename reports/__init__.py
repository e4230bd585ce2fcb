"""Reports: records become one HTML page, Markdown and a terminal table. Models are never read."""
