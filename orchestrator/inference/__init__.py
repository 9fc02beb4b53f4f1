"""What the numbers of a signal tell of how they came about: the optimizer, and a defense that is in force."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "defense": ["SeenDefense", "seen_defense"],
        "optimizer": ["Optimizer", "seen_optimizer"],
    },
)
