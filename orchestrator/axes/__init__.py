"""Axes of a sweep file: cells as a product over settings, with what is left out of it and added to it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "expand": ["MOST_CELLS", "expand"],
        "names": ["value_name"],
        "paths": ["put"],
        "values": ["Axes", "Axis", "Value", "put_axis", "slots"],
    },
)
