"""Candidate gradients: handles on layers, what they are compared with, and how."""
