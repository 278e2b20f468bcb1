"""Probes: rows of a site under a split, an estimator, its scores and its nulls."""
