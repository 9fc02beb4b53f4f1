"""What can be done with a network and what a client sent, without a sweep: invert, defend, simulate, files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "files": ["load_gradient", "load_update", "save_update"],
        "images": ["ImageSpec"],
        "invert": ["Found", "invert"],
        "known": ["Known"],
        "simulate": ["defend", "observe"],
        "updates": ["Update"],
    },
)
