"""Studies: suggestions out, results in, in a fixed order."""
