"""Studies: suggestions out, results in, in a fixed order."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cell_study": ["CellStudy", "mean_of"],
        "dashboard_copy": ["Mirror"],
        "schedule": ["Schedule"],
        "search": ["Study"],
        "utility_runs": ["UtilityRuns"],
        "warm_start": ["note_warm_starts", "warm_starts"],
    },
)
