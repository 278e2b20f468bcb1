"""Sentences: one with its annotations, many as columns, drawn from a grammar's tables, and split."""
