"""The audit of one real signal: how bad it is without knowing the truth, and what would stop it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "audit": ["Answer", "Question", "run_audit"],
        "page": ["write_page"],
    },
)
