"""Clients that train a part of their network: frozen parameters, and low-rank adapters (LoRA)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "adapters": ["LowRankLinear", "adapt", "adapters"],
        "low_rank": ["LowRankConfig"],
        "trainable": [
            "freeze",
            "frozen_apart",
            "frozen_parameters",
            "requiring_gradient",
            "trained_names",
            "without_frozen",
        ],
    },
)
