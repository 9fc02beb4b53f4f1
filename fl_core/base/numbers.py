"""Numbers that several packages share."""

TINY = 1e-30
"""What a divisor is at least where it may be 0: any other number of float32 that means something is larger."""
