"""What a defense is, and the two operations that many are made of: clipping and noise."""
