"""What everything rests on: errors, randomness, shared types, devices, decibels."""
