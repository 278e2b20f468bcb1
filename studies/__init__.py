"""Experiments with a known answer, longer than a test: `python -m studies.NAME` prints a verdict and exits 0 where it holds."""
