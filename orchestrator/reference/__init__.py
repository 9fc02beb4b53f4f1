"""What a sweep file may hold, read off the dataclasses: a page of documentation and a JSON schema for editors."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "keys": ["Key", "keys_of", "kinds_of"],
        "page": ["page"],
        "schema": ["sweep_schema"],
    },
)
