"""Functions of tensors that an attack computes again and again, and the ways in which they run."""
