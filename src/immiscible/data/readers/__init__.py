"""One reader per kind of source, each a file."""
