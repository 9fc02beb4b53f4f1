"""What federated clients compute and what a server sees of it."""
