"""Beyond this machine: Ray jobs and Slurm scripts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "access": ["find_token"],
        "slurm": ["SlurmJob", "render"],
        "submit": ["JobState", "Jobs"],
    },
)
