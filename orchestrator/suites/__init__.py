"""Suites of sweeps: which there are, the original scripts' variables, the folder of each run, their tables."""
