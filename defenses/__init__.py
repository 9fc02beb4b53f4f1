"""Defenses: what is done to networks, images, gradients and updates before a server sees them."""
