"""A verdict for its readers: terminal, `verdict.json`, JUnit XML, Markdown."""
