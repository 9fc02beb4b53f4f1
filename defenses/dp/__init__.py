"""Differential privacy: accounting, local, central and distributed noise, DP-SGD, an empirical audit."""
