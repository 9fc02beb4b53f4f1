"""The driver of a sweep, its refinement of thresholds, and its plan."""
