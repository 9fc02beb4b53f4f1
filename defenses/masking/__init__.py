"""Secure aggregation by pairwise masks."""
