"""Tables of a report: each function turns records into tables as data, independent of the output format."""
