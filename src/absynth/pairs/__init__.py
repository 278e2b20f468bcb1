"""Minimal pairs: how they are made on derivations, and what they hold."""

from absynth.pairs.pair_set import MinimalPair, PairSet

__all__ = ["MinimalPair", "PairSet"]
