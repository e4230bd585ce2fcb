"""Tables of a report: each function turns records into tables as data, which know nothing of how they are written."""
