"""What an attack is, and what it returns."""
