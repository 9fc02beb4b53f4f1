"""Defenses that change what a client trains on, or the network that it trains: mixtures, transforms, PRECODE."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "ats": ["ATS"],
        "mixing": ["InstaHide", "MixUp"],
        "precode": ["Precode"],
    },
)
