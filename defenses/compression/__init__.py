"""Defenses that send less of an update: pruning, sign and quantisation, representation pruning (Soteria)."""
