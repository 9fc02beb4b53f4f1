"""Federated learning: clients, rounds, aggregation, training, and where clients are simulated."""
