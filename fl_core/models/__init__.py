"""The clients' networks."""
