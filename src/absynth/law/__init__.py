"""What is known exactly about a grammar's sentences: probabilities, entropies, beliefs, ceilings, derivations."""
