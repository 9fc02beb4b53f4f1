"""Differential privacy: accounting, local, central and distributed noise, DP-SGD, an empirical audit."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "accounting": ["replace_one_epsilon"],
        "central": ["DPCentral"],
        "distributed": ["DPDistributed"],
        "local": ["DPUpdate"],
        "sgd": ["DPSGD"],
    },
)
