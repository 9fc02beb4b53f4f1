"""One trial, the cell that it belongs to, and accuracy runs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cell": ["Cell", "check_cell"],
        "memory": ["packings", "ran_out"],
        "rows": ["Released", "rows_of"],
        "run": ["TrialResult", "trial_job", "unfinished"],
        "shared_captures": ["SharedCaptures"],
        "spec": ["Phase", "TrialSpec"],
        "utility": ["UtilitySpec", "run_utility"],
    },
)
