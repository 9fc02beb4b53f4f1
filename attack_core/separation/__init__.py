"""Batches that come apart though their gradient is noisy, rounded, pruned, or a delta of several local steps."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"inputs": ["follows_from_damaged", "read_inputs", "separated_inputs"]},
)
