"""Changes of pictures that can be inverted or undone in part: transforms, policies, mixtures."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "mixing": ["mixing_matrix"],
        "transforms": ["Transform", "draws_of", "is_lossy", "inverse_transformed", "transformed"],
    },
)
