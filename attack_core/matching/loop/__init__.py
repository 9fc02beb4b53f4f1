"""The matching loop itself: what it minimises, and how restarts are evaluated, moved and kept."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "features": ["FeatureTarget"],
        "problem": ["Problem", "problem_of"],
        "search": ["searched"],
    },
)
