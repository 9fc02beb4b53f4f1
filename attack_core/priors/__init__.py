"""What images look like: penalties and parametrisations."""
