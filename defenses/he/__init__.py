"""Homomorphic encryption: CKKS and Paillier."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cost": ["estimate", "local_cores"],
        "encryption": ["CKKS", "INSECURE", "InsecureKey", "Paillier"],
    },
)
