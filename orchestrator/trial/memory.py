"""Memory that runs out: how that is told, what is tried then, and how it is given back."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import torch

from attack_core.base.types import Attack


def packings(attack: Attack) -> tuple[int, ...]:
    """How many restarts run together: as many as the attack says and, should memory not suffice for them, half."""
    together = attack.together
    return (together, together // 2) if together > 1 else (together,)


def ran_out(tries: Sequence[int]) -> str:
    """What an `error` says of memory that did not suffice for these packings, in turn."""
    return f"out of memory with {' and then '.join(map(str, tries))} restarts at a time"


def free(device: torch.device) -> None:
    """Give back what a failed try has left on the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
