"""The driver of a sweep, its refinement of thresholds, and its plan."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "merge": ["merge_folders"],
        "pace": ["measure"],
        "plan": ["check_plan", "make_plan", "measured", "plan_table"],
        "refine": ["run_refined"],
        "sweep": ["resolve", "run_sweep"],
    },
)
