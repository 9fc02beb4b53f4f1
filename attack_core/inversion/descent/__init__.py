"""Descents under an image prior: stage by stage, each in L-BFGS, and several side by side."""
