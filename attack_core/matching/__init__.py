"""Gradient matching: the settings of its one loop."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "candidates": ["EarlyStop"],
        "matching": ["Matching", "at_the_mean"],
        "presets": ["inverting_gradients", "soft_matching"],
        "schedules": ["OptimizerName", "Schedule"],
        "settings": ["Preset"],
    },
)
