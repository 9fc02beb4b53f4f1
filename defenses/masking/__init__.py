"""Secure aggregation by pairwise masks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "masking": ["Masking"],
    },
)
