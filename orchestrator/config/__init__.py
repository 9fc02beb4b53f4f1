"""Sweep files: their schema, parsing, search spaces, scales of strength, addresses."""
