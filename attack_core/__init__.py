"""Gradient inversion: from an observation to images."""
