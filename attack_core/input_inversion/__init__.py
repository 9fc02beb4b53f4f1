"""Inversion of input defenses: from the images that a client trained on to those that it holds."""
