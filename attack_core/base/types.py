"""What an attack is, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fl_core.threat.observation import Observation

Progress = Callable[[int, int, float], None]
"""Called with iterations done, iterations planned, best loss so far."""


PRIOR_ALONE = "prior alone"
"""How the `method` of an answer ends that took nothing from the signal."""


class AttackFailed(Exception):
    """Every candidate of an attack ended in numbers that are not finite."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """An attack's answer.

    `candidates` (C, B, 3, S, S) in [-1, 1] are all restarts' best images, on the CPU; `images` (B, 3, S, S) is
    the one of them that the attacker selected, `labels` (B,) its labels, `loss` its matching loss. `history`
    (iterations, C) holds each candidate's matching loss, NaN once it has ended. `failed` counts candidates
    that met a loss that is not finite. `method` names what ran in the end, `notes` say in sentences why it was
    chosen and what was fallen back from.
    """

    images: Tensor
    labels: Tensor
    loss: float
    candidates: Tensor
    history: Tensor
    iterations: int
    failed: int
    method: str
    notes: tuple[str, ...] = ()

    @property
    def is_prior(self) -> bool:
        """Whether the answer is what was known before the signal, which said no more."""
        return self.method.endswith(PRIOR_ALONE)


class Attack(Protocol):
    """A configured attack: from what the attacker sees to images."""

    def __call__(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Run on the device of the observation's tensors."""
