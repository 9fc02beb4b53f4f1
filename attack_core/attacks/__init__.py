"""The attacks that users name, and their registry."""
