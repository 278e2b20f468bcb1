"""Benchmarks: each module has `rows() -> list[dict(name, value, unit, bound, note)]`; `python -m benchmarks` prints them all."""
