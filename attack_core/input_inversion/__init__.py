"""Inversion of input defenses: from the images that a client trained on to those that it holds."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "inversion": ["invert_inputs"],
    },
)
