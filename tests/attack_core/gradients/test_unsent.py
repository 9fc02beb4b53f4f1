"""Attacks on signals of which little or nothing was sent: finite losses and slopes, and the prior as the answer."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from attack_core.attacks.auto import Auto
from attack_core.gradients.comparison.layers import layer_weights
from attack_core.gradients.comparison.matched import Matched
from attack_core.gradients.handles import DenseHandle, GhostHandle, GradientHandle
from attack_core.gradients.objectives import L2, Both, Cosine, Objective, Signs, Similarity
from attack_core.matching.matching import Matching
from attack_core.matching.presets import soft_matching
from defenses.compression.compression import Prune
from fl_core.base.rng import generator
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model
from tests.support.defended import attacked, of_mean, seen

OBJECTIVES: tuple[Objective, ...] = (L2(), Cosine(), Similarity(), Both(), Signs())
SHORT = dataclasses.replace(soft_matching(), iterations=10)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.kind)
@pytest.mark.parametrize("ghost", [True, False])
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-9, 1.0])
@pytest.mark.parametrize("zeros", [(), ("a",), ("a", "b")])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("mode", ["uniform", "auto"])
def test_losses_and_slopes_are_finite(
    objective: Objective, ghost: bool, size: float, zeros: tuple[str, ...], told: bool, mode: str
) -> None:
    """Two candidates, one of them with a gradient of exactly 0, against layers of which nothing was sent."""
    draws = generator("unsent", 0)
    error = (
        size * torch.randn(2, 1, 4, generator=draws) * torch.tensor([1.0, 0.0])[:, None, None]
    ).requires_grad_()
    entering = torch.randn(2, 1, 5, generator=draws).requires_grad_()
    factors = GhostHandle(error, entering)
    handles: dict[str, GradientHandle] = {
        "a": factors if ghost else DenseHandle(factors.dense()),
        "b": DenseHandle(error.sum(1)),
    }
    targets = {"a": torch.randn(4, 5, generator=draws), "b": torch.randn(4, generator=draws)}
    targets |= {name: torch.zeros_like(targets[name]) for name in zeros}
    sent = {name: target != 0 for name, target in targets.items()} if told else None
    weights = layer_weights(targets, mode)  # type: ignore[arg-type]
    for scaled in (False, True):
        loss = objective.loss(Matched.of(targets, weights, sent=sent, scaled=scaled).terms(handles))
        slopes = torch.autograd.grad(loss.sum(), (error, entering), allow_unused=True, retain_graph=True)
        assert bool(loss.isfinite().all())
        assert all(bool(slope.isfinite().all()) for slope in slopes if slope is not None)


@pytest.mark.parametrize("objective", [Cosine(), Similarity()], ids=lambda o: o.kind)
def test_angles_do_not_depend_on_how_small_gradients_are(objective: Objective) -> None:
    gradient = torch.randn(1, 6, generator=generator("angle", 0))
    target = torch.randn(6, generator=generator("angle", 1))
    found = [
        float(
            objective.loss(
                Matched.of({"a": size * target}, {"a": 1.0}).terms({"a": DenseHandle(size * gradient)})
            )
        )
        for size in (1.0, 1e-4, 1e-8)
    ]
    assert found[1:] == pytest.approx(found[:1] * 2, rel=1e-4)


def test_a_layer_of_zeros_weighs_nothing_by_its_norm() -> None:
    found = layer_weights({"sent": torch.ones(4), "unsent": torch.zeros(3)}, "auto")
    assert found == {"sent": 2.0, "unsent": 0.0}
    assert set(layer_weights({"unsent": torch.zeros(3)}, "auto").values()) == {0.0}


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("ratio", [0.9999, 0.99999, 0.9999999])
def test_auto_answers_almost_empty_signals(faces: ImageDataset, ratio: float, told: bool) -> None:
    observation, truth = seen(faces, Prune(ratio=ratio), told=told)
    found = Auto(fallback=SHORT)(observation, build_model(observation.model), generator("attack", 0))
    assert bool(found.images.isfinite().all())
    if told:
        assert (found.outcome, found.method) == ("prior", "prior alone")
        assert attacked(observation, truth, Auto(fallback=SHORT)) == pytest.approx(
            of_mean(observation, truth)
        )


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.kind)
def test_matching_an_almost_empty_signal_is_finite(faces: ImageDataset, objective: Objective) -> None:
    observation, _ = seen(faces, Prune(ratio=0.99999))
    attack = Matching(iterations=3, objective=objective, layer_weights="auto")
    found = attack(observation, build_model(observation.model), generator("attack", 0))
    assert found.failed == 0


def test_a_signal_of_zeros_is_answered_with_the_prior(faces: ImageDataset) -> None:
    observation, truth = seen(faces)
    empty = dataclasses.replace(
        observation, tensors={name: torch.zeros_like(value) for name, value in observation.tensors.items()}
    )
    assert attacked(empty, truth, Auto(fallback=SHORT)) == pytest.approx(of_mean(empty, truth))
