"""Shared foundations: errors, randomness, types and numbers, devices, decibels."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "decibels": ["TINY", "FAR", "energy", "scaled"],
        "device": [
            "DEVICES",
            "mps_fallback",
            "exact",
            "give_back_pages",
            "keep_freed_pages",
            "out_of_memory",
            "peak_mb",
            "pick_device",
            "prepare_process",
            "products_of_cuda",
            "reset_peak",
            "synchronise",
        ],
        "errors": [
            "InputError",
            "NotSummable",
            "first_line",
            "hint",
            "listed",
            "natural",
            "one_line",
            "unknown_name",
        ],
        "libraries": ["library"],
        "own_code": ["OwnCode", "OwnCodeFailed"],
        "own_object": ["OwnObject"],
        "rng": ["Random", "derive_seed", "drawn_generators", "generator", "normal", "stream", "uniform"],
        "shape": ["ImageShape"],
        "types": [
            "ClientUpdate",
            "Config",
            "EarlierUpdate",
            "LATER",
            "ModelState",
            "OpenedSum",
            "Protection",
            "Signal",
            "Tensors",
            "Truth",
            "clipped_to_zeros",
            "require",
        ],
    },
)
