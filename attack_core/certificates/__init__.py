"""Certificates: what the equations behind an answer say of how well they determine it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "inputs": ["InputErrors", "certify_inputs", "input_errors"],
        "linearised": ["Linearised"],
        "local": ["certify_features", "certify_locally"],
    },
)
