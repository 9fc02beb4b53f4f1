"""Secure sums, whatever the scheme: fixed point, the exchange of a round, the mean of protected updates."""
