"""File formats, one module each: `write(parts, header, path)` and `read(path)`. `by_suffix` chooses."""
