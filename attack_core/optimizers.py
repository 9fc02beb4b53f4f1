"""One step for every candidate: library optimizers, each candidate with its own learning rate and state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

OptimizerName = Literal["adam", "adamw", "sgd", "lbfgs"]
Schedule = Literal["none", "cosine"]

Evaluate = Callable[[list[int]], Tensor]
"""Losses (A,) of the listed candidates, leaving gradients in their parameters' `grad`."""


class Stepper(Protocol):
    """Moves candidates downhill."""

    def step(self, active: list[int], rates: Sequence[float], evaluate: Evaluate) -> None:
        """Evaluate the `active` candidates and move each once, at its own rate."""


class FirstOrder:
    """Adam, AdamW (decay 0.01) or SGD (momentum 0.9): one evaluation of all candidates a step."""

    def __init__(self, kind: Literal["adam", "adamw", "sgd"], parameters: list[list[Tensor]]) -> None:
        groups = [{"params": own, "lr": 0.0} for own in parameters]
        self._optimizer: torch.optim.Optimizer
        match kind:
            case "adam":
                self._optimizer = torch.optim.Adam(groups)
            case "adamw":
                self._optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
            case "sgd":
                self._optimizer = torch.optim.SGD(groups, momentum=0.9)

    def step(self, active: list[int], rates: Sequence[float], evaluate: Evaluate) -> None:
        """See `Stepper.step`."""
        # Candidates that have ended keep no gradient, and the optimizer skips what has none.
        self._optimizer.zero_grad(set_to_none=True)
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        evaluate(active)
        self._optimizer.step()


class LBFGS:
    """L-BFGS with strong-Wolfe line search, one instance and one iteration a step for each candidate."""

    def __init__(self, parameters: list[list[Tensor]]) -> None:
        self._optimizers = [
            torch.optim.LBFGS(own, max_iter=1, history_size=50, line_search_fn="strong_wolfe")
            for own in parameters
        ]

    def step(self, active: list[int], rates: Sequence[float], evaluate: Evaluate) -> None:
        """See `Stepper.step`."""
        for candidate in active:
            optimizer = self._optimizers[candidate]
            optimizer.param_groups[0]["lr"] = rates[candidate]

            def closure(candidate: int = candidate) -> Tensor:
                optimizer.zero_grad(set_to_none=True)  # noqa: B023 - called within this step only
                return evaluate([candidate])[0]

            optimizer.step(closure)


def make_stepper(kind: OptimizerName, parameters: list[list[Tensor]]) -> Stepper:
    """The stepper called `kind` over each candidate's own list of leaf tensors."""
    return LBFGS(parameters) if kind == "lbfgs" else FirstOrder(kind, parameters)


def warmup(iterations: int) -> int:
    """How many iterations the cosine schedule's linear warm-up takes: a tenth, at most 100."""
    return min(100, iterations // 10)


def rate_factor(schedule: Schedule, iteration: int, iterations: int) -> float:
    """What the base learning rate is multiplied by at `iteration`.

    `cosine`: linear warm-up, then a half cosine down to 1%.
    """
    if schedule == "none":
        return 1.0
    rising = warmup(iterations)
    if iteration < rising:
        return (iteration + 1) / rising
    done = (iteration - rising) / max(1, iterations - rising)
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done))
