"""Defenses as studied objects: what a client does to its update before it leaves."""
