"""The attacks that users name, and their registry."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "registry": ["AnyAttack", "NAMED"],
    },
)
