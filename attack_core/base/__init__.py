"""What an attack is, and what it returns."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "types": ["Attack", "AttackFailed", "Outcome", "Progress", "Reconstruction"],
    },
)
