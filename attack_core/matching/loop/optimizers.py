"""One step for every candidate: library optimizers, each candidate with its own learning rate and state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from attack_core.base.search import Search, alone
from attack_core.matching.schedules import OptimizerName, Sign

Evaluate = Callable[[list[int]], Search[Tensor]]
"""Losses (A,) of the listed candidates, leaving gradients in their parameters' `grad`; a part of a search."""


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """What the optimizers take that no sweep file sets."""

    decay: float = 0.01
    """AdamW's weight decay: the library's own value."""
    momentum: float = 0.9
    """SGD's momentum: the usual value."""
    first_loss: float = 1e6
    """What L-BFGS sees each candidate's loss begin with.

    The library compares curvatures with an absolute 1e-10, and a matching loss of 1e-6 would stall there.
    """
    trials: int = 25
    """Evaluations that one line search may take: the library's own limit."""
    history: int = 50
    """How many pairs of steps and gradients L-BFGS keeps. Not measured against other values."""


OPTIMIZER_SETTINGS = OptimizerSettings()
"""The settings in force."""


class Stepper(Protocol):
    """Moves candidates downhill."""

    def step(self, active: list[int], factor: float, evaluate: Evaluate) -> Search[None]:
        """Evaluate the `active` candidates and move each once, at `factor` times its own rate."""


class FirstOrder:
    """Adam, AdamW (decay 0.01) or SGD (momentum 0.9): one evaluation of all candidates a step.

    `sign` replaces each leaf's gradient before the optimizer sees it: `hard` by its sign (Geiping et al. 2020,
    arXiv:2003.14053), `soft` by tanh(g / mean |g|), which leaves small entries small.
    """

    def __init__(
        self,
        kind: Literal["adam", "adamw", "sgd"],
        parameters: list[list[Tensor]],
        rates: Sequence[float],
        sign: Sign,
    ) -> None:
        self._rates = list(dict.fromkeys(rates))
        # Candidates of one rate are one group: on a GPU the library then moves them together.
        groups = [
            {
                "params": [
                    leaf for own, r in zip(parameters, rates, strict=True) if r == rate for leaf in own
                ],
                "lr": 0.0,
            }
            for rate in self._rates
        ]
        self._leaves, self._sign = [leaf for own in parameters for leaf in own], sign
        self._optimizer: torch.optim.Optimizer
        match kind:
            case "adam":
                self._optimizer = torch.optim.Adam(groups)
            case "adamw":
                self._optimizer = torch.optim.AdamW(groups, weight_decay=OPTIMIZER_SETTINGS.decay)
            case "sgd":
                self._optimizer = torch.optim.SGD(groups, momentum=OPTIMIZER_SETTINGS.momentum)

    def step(self, active: list[int], factor: float, evaluate: Evaluate) -> Search[None]:
        """See `Stepper.step`."""
        # Candidates that have ended keep no gradient, and the optimizer skips what has none.
        self._optimizer.zero_grad(set_to_none=True)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        yield from evaluate(active)
        for leaf in self._leaves:
            if leaf.grad is not None:
                leaf.grad = signed(leaf.grad, self._sign)
        self._optimizer.step()


def signed(gradient: Tensor, sign: Sign) -> Tensor:
    """The gradient as `FirstOrder` hands it on; zero stays zero."""
    match sign:
        case "none":
            return gradient
        case "hard":
            return gradient.sign()
        case "soft":
            return (gradient / gradient.abs().mean().clamp_min(torch.finfo(gradient.dtype).tiny)).tanh()


class LBFGS:
    """L-BFGS with strong-Wolfe line search, one instance and one iteration a step for each candidate.

    A candidate that the last step has left where it was, or taken to numbers that are not finite, begins anew from
    where it was, with an empty memory: steepest descent first. The library's line search evaluates alone.
    """

    def __init__(self, parameters: list[list[Tensor]], rates: Sequence[float]) -> None:
        self._parameters, self._rates = parameters, rates
        self._scales: dict[int, float] = {}
        self._before: dict[int, list[Tensor]] = {}
        self._optimizers = [
            torch.optim.LBFGS(
                own,
                max_iter=1,
                # Unset, it would follow from max_iter and leave the line search a single trial.
                max_eval=OPTIMIZER_SETTINGS.trials + 1,
                history_size=OPTIMIZER_SETTINGS.history,
                tolerance_grad=0.0,
                tolerance_change=0.0,
                line_search_fn="strong_wolfe",
            )
            for own in parameters
        ]

    def step(self, active: list[int], factor: float, evaluate: Evaluate) -> Search[None]:
        """See `Stepper.step`."""
        yield from ()
        for candidate in active:
            optimizer, own = self._optimizers[candidate], self._parameters[candidate]
            optimizer.param_groups[0]["lr"] = self._rates[candidate] * factor
            before = [leaf.detach().clone() for leaf in own]
            last = self._before.get(candidate)
            if last is not None and all(torch.equal(a, b) for a, b in zip(before, last, strict=True)):
                optimizer.state.clear()
            self._before[candidate] = before

            def closure(candidate: int = candidate) -> Tensor:
                return self._scaled(candidate, evaluate)

            optimizer.step(closure)
            if not all(bool(torch.isfinite(leaf).all()) for leaf in own):
                _restore(own, before)
                optimizer.state.clear()

    def _scaled(self, candidate: int, evaluate: Evaluate) -> Tensor:
        """The candidate's loss, and its gradients, times a factor that its first loss has set."""
        loss = alone(evaluate([candidate]))[0]
        if candidate not in self._scales:
            first = abs(float(loss))
            self._scales[candidate] = (
                OPTIMIZER_SETTINGS.first_loss / first if math.isfinite(first) and first > 0 else 1.0
            )
        scale = self._scales[candidate]
        for leaf in self._parameters[candidate]:
            if leaf.grad is not None:
                leaf.grad = leaf.grad * scale
        return loss * scale


@torch.no_grad()
def _restore(leaves: list[Tensor], values: list[Tensor]) -> None:
    for leaf, value in zip(leaves, values, strict=True):
        leaf.copy_(value)


def make_stepper(
    kind: OptimizerName, parameters: list[list[Tensor]], rates: Sequence[float], sign: Sign = "none"
) -> Stepper:
    """The stepper called `kind` over each candidate's own leaf tensors, at its own rate; L-BFGS takes no `sign`."""
    return LBFGS(parameters, rates) if kind == "lbfgs" else FirstOrder(kind, parameters, rates, sign)
