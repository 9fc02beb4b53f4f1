"""Synthetic portraits: who is shown, how they are painted, and the data set that they are written to."""
