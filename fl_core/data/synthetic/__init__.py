"""Synthetic portraits: who is shown, how they are painted, and the data set that they are written to."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "faces": ["unwritten_faces", "write_faces"],
    },
)
