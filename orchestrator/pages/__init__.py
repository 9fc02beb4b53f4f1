"""What the project's HTML pages share: head, stylesheet, the table's script, and pictures in the page itself."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"self_contained": ["data_uri", "environment"]}
)
