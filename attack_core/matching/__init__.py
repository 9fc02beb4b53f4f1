"""Gradient matching: the one loop, its candidates and optimizers."""
