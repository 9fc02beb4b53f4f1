"""How tensors are multiplied, where that is no setting of the library."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"bf16": ["products_are_rounded", "products_in_bfloat16"]}
)
