"""One trial, the cell that it belongs to, and accuracy runs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cells": ["Cell", "Released", "check_cell", "rows_of"],
        "shared_captures": ["SharedCaptures"],
        "trial": [
            "Phase",
            "TrialResult",
            "TrialSpec",
            "out_of_memory",
            "packings",
            "ran_out",
            "trial_job",
            "unfinished",
        ],
        "utility": ["UtilitySpec", "run_utility"],
    },
)
