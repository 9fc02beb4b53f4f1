"""A running process: stopping when told to, progress."""
