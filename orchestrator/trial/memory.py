"""Memory that runs out: how that is told, what is tried then, and how it is given back."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import torch

from attack_core.base.types import Attack
from fl_core.base.device import give_back_pages


def packings(attack: Attack) -> tuple[int, ...]:
    """How many restarts run together: as many as the attack says, and half as often as memory does not suffice.

    So the first that fits holds more than half of the most that would. The last is a single one.
    """
    tries = [attack.together]
    while tries[-1] > 1:
        tries.append(tries[-1] // 2)
    return tuple(tries)


def ran_out(tries: Sequence[int]) -> str:
    """What an `error` says of memory that did not suffice for these packings, in turn."""
    *earlier, last = map(str, tries)
    said = f"{', '.join(earlier)} and then {last}" if earlier else last
    return f"out of memory with {said} restarts at a time"


def free(device: torch.device) -> None:
    """Give back what a failed try has left, on the device and in this process's heap."""
    gc.collect()
    give_back_pages()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
