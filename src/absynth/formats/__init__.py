"""File formats, one module each. A module has `write(corpora, header, path, ...)` and `read(path)`; `absynth.files` chooses."""
