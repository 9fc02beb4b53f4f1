"""Living with a sweep: its state, its trials, running again what failed, and its results in other tools."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "find": ["find_trial"],
        "page": ["show_trial"],
        "replay": ["Replayed", "replay_trial"],
        "retry": ["retry_trials"],
        "status": ["Status", "read_status"],
        "watch": ["watch_sweep"],
    },
)
