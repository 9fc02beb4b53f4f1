"""Captures: the data sets that they are made of, and their store."""
