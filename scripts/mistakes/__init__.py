"""Deliberate mistakes in the source, which `scripts/mutants.py` makes: a file for each part of it."""
