"""Thin adapters to other people's training loops and loggers. No logic lives here."""
