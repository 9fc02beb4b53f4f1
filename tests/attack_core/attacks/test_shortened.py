"""The same attack with fewer iterations: every loop is shorter, nothing else changes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.attacks.registry import NAMED, AnyAttack
from attack_core.base.types import Attack, Progress, Reconstruction
from attack_core.inversion.continuation import Continuation
from attack_core.matching.matching import Matching
from fl_core.base.errors import InputError
from fl_core.threat.observation import Observation


@pytest.mark.parametrize("attack", NAMED.values(), ids=NAMED.keys())
def test_a_share_of_one_is_the_attack_itself(attack: AnyAttack) -> None:
    assert attack.shortened(1.0) == attack


def test_every_loop_of_auto_is_shorter_and_nothing_else_is_changed() -> None:
    auto = Auto()
    short = auto.shortened(0.1)
    assert short.fallback == replace(auto.fallback, iterations=200)
    assert short.analytic.inversion.evaluations == 60
    assert short.analytic.refinement.evaluations == 30
    assert short.analytic.rounds == auto.analytic.rounds
    assert short.cost(1) == pytest.approx(auto.cost(1) / 10)


def test_no_loop_is_shortened_to_nothing() -> None:
    assert Matching(iterations=50).shortened(1e-6).iterations == 1
    short = Analytic(inversion=Continuation(evaluations=600, stages=3)).shortened(1e-6)
    assert short.inversion.evaluations == 30
    assert Continuation(evaluations=12, stages=3).shortened(0.5).evaluations == 12


@dataclass(frozen=True, kw_only=True)
class _Direct(Attack):
    def __call__(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Reconstruction:
        raise AssertionError("not run")

    def cost(self, images: int) -> float:
        return float(images)


def test_an_attack_without_iterations_says_so() -> None:
    assert _Direct().shortened(1.0) == _Direct()
    with pytest.raises(InputError, match="_Direct has no iterations"):
        _Direct().shortened(0.5)
