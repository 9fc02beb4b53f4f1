"""The report's figures and gallery, in a light and a dark version."""
