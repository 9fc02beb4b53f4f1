"""What a candidate's local training would have done: simulated steps, and the noise of a bottleneck."""
