"""A continuation as it runs: its stages, where they end, and what they are given."""
