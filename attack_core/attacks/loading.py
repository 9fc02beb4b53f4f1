"""Loads what attacks compute with, none of which their settings load: so that it counts into no attack's seconds."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

import attack_core


@cache
def load() -> None:
    """Import every module of `attack_core`, and what PyTorch imports when its first optimizer is made.

    Seconds, once in a process. Whoever times an attack calls it before.
    """
    import torch

    for found in pkgutil.walk_packages(attack_core.__path__, f"{attack_core.__name__}."):
        import_module(found.name)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
