"""Feature inversion: images from layer inputs, by continuation in preconditioned coordinates."""
