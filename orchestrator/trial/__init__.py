"""One trial, the cell that it belongs to, and accuracy runs."""
