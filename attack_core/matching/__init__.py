"""Gradient matching: the one loop, its candidates and optimizers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "candidates": ["EarlyStop"],
        "features": ["FeatureTarget"],
        "matching": ["Matching", "Preset", "at_the_mean"],
        "optimizers": ["OptimizerName", "Schedule"],
        "presets": ["inverting_gradients", "soft_matching"],
    },
)
