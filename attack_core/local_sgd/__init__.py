"""What a candidate's local training would have done: simulated steps, and the noise of a bottleneck."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "problems": ["Count", "LocalProblem", "merge_copies"],
        "simulation": ["Averaged", "LocalModel", "Simulated", "Surrogate"],
    },
)
