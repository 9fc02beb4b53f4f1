"""Secure sums, whatever the scheme: fixed point, the exchange of a round, the mean of protected updates."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "exchange": ["Opened", "dropouts"],
        "fixed_point": ["FixedPoint", "Integers", "Lanes", "guard_bits"],
        "keys": ["Ciphertexts", "PublicKey", "SecretKey"],
        "mean": ["SecureMean"],
        "protection": ["SumProtection"],
        "selective": ["Selective"],
    },
)
