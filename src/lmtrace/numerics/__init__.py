"""Formulas that two or more signals use. This room knows nothing of the others."""
