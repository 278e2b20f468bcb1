"""What a corpus is, measured against what its grammar asked for: numbers, text and figures."""
