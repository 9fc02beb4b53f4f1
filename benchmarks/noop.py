"""The trial of `orchestrator.py`: all of a real one but the attack. A module, so that workers import it by name."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from attack_core.base.types import Progress, Reconstruction
from attack_core.matching.matching import Matching
from fl_core.threat.observation import Observation
from orchestrator.trial.run import TrialResult, trial_job
from orchestrator.trial.spec import TrialSpec


@dataclass(frozen=True, kw_only=True)
class NoOp(Matching):
    """The mean public image times a factor that the searched parameters decide."""

    def __call__(
        self,
        observation: Observation,
        model: torch.nn.Module,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
        *,
        progress: Progress | None = None,  # noqa: ARG002
    ) -> Reconstruction:
        """See `attack_core.base.types.Attack`."""
        mean = observation.public_mean
        assert mean is not None
        images = mean[None].cpu() * quality(self.lr, self.init_std)
        return Reconstruction(
            images=images,
            labels=torch.zeros(1, dtype=torch.long),
            loss=0.0,
            candidates=images[None],
            history=torch.zeros(1, 1),
            iterations=1,
            failed=0,
            method="no-op",
        )


def quality(lr: float | tuple[float, ...], init_std: float) -> float:
    """A smooth function with its greatest value, 1, inside the search space."""
    rate = lr if isinstance(lr, float) else lr[0]
    return math.exp(-((math.log10(rate) + 1.5) ** 2) - (init_std - 0.3) ** 2)


def noop_job(seconds: float, spec: TrialSpec, *rest: Any, **options: Any) -> TrialResult:
    """A trial whose attack is the no-op: what the attacker sees and its scores are computed as ever."""
    time.sleep(seconds)
    settings = {entry.name: getattr(spec.attack, entry.name) for entry in fields(Matching)}
    return trial_job(replace(spec, attack=NoOp(**settings)), *rest, **options)
