"""Sizes of an update's numbers tell adaptive optimizers from SGD, and noise from both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fl_core.federation.client import LocalTraining
from orchestrator.inference.optimizer import SignSteps, seen_optimizer
from orchestrator.library.simulate import observe
from orchestrator.library.updates import Update
from tests.support.signals import CLASSES, SPEC, labels, network, pictures

Optimizer = Callable[[Any], torch.optim.Optimizer]


def _moved(optimizer: Optimizer, *, images: int, steps: int) -> dict[str, torch.Tensor]:
    model, before = network(), network().state_dict()
    chosen = optimizer(model.parameters())
    for _ in range(steps):
        chosen.zero_grad()
        nn.functional.cross_entropy(model(pictures(images)), labels(images)).backward()
        chosen.step()
    return {name: value - before[name] for name, value in model.state_dict().items()}


ADAPTIVE = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3),
}


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("images", [1, 8])
def test_the_first_step_of_an_adaptive_method_leaves_signs(name: str, images: int) -> None:
    found = seen_optimizer(_moved(ADAPTIVE[name], images=images, steps=1))
    assert found is not None
    assert found.kind == "signs"
    assert found.size == pytest.approx(1e-2 if name == "rmsprop" else 1e-3, rel=0.05)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
@pytest.mark.parametrize("steps", [3, 10])
def test_later_steps_are_adaptive(name: str, steps: int) -> None:
    found = seen_optimizer(_moved(ADAPTIVE[name], images=8, steps=steps))
    assert found is not None
    assert found.kind == "adaptive"


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9}, {"weight_decay": 5e-4}, {"weight_decay": 0.05}])
@pytest.mark.parametrize(("images", "steps"), [(1, 1), (3, 1), (4, 1), (8, 3), (16, 8)])
def test_sgd_is_not_taken_for_one(settings: dict[str, float], images: int, steps: int) -> None:
    moved = _moved(
        lambda parameters: torch.optim.SGD(parameters, lr=0.05, **settings), images=images, steps=steps
    )
    assert seen_optimizer(moved) is None


@pytest.mark.parametrize("share", [0.1, 1.0, 100.0])
def test_noise_is_not_taken_for_one(share: float) -> None:
    moved = _moved(lambda parameters: torch.optim.SGD(parameters, lr=0.05), images=4, steps=1)
    size = torch.cat([value.flatten() for value in moved.values()]).square().mean().sqrt()
    draws = torch.Generator().manual_seed(0)
    noisy = {
        name: value + share * size * torch.randn(value.shape, generator=draws)
        for name, value in moved.items()
    }
    assert seen_optimizer(noisy) is None


def test_steps_along_signs_are_those_of_adam() -> None:
    """With one step: the size is the learning rate, and 0 stays 0; only gradients near Adam's 1e-8 differ."""
    local = LocalTraining(lr=1e-3, momentum=0.0, batch_size=2)
    seen = observe(
        network(), pictures(2), labels(2), image=SPEC, classes=CLASSES, local=local, defenses=[SignSteps()]
    )
    assert isinstance(seen, Update)
    adam = _moved(ADAPTIVE["adam"], images=2, steps=1)
    for name, value in seen.tensors.items():
        assert float((value - adam[name]).abs().gt(2e-5).float().mean()) < 1e-3
        assert torch.equal(value == 0, adam[name] == 0)
