"""Defenses that send less of an update: pruning, sign and quantisation, representation pruning (Soteria)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "compression": ["Prune", "Quantise", "SignOnly"],
        "soteria": ["Soteria"],
    },
)
