"""Captures: the data sets that they are made of, and their store."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "datasets": ["data_line", "open_data", "planned_data"],
        "places": ["check_data", "resolve_kind"],
        "priors": ["Learned", "Priors"],
        "store": [
            "Capture",
            "CaptureSource",
            "CaptureStore",
            "captured_federation",
            "check_batches",
            "check_round",
            "victims_of",
        ],
        "used_data": ["DataCheck", "refuse_mixed", "united"],
    },
)
