"""A simulated local path through any network is plain autograd's unrolled SGD, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attack_core.gradients.local_steps import LocalPath, factored_weights, path_handles, soft_loss
from attack_core.gradients.operations import twice_differentiable
from attack_core.gradients.targets import travelled
from fl_core.base.types import ModelState
from fl_core.models.forward import predict
from tests.support.networks import CLASSES, SMALL, built, some, state_of

LR, MOMENTUM = 0.1, 0.7
BATCHES = ((0, 1), (2,), (0, 1))
SHAPE = (3, 3, SMALL, SMALL)

FACTORED = {
    "reused": {"first.weight", "again.weight", "head.weight"},
    "tied": {"first.weight"},
    "root": set(),
    "attention": {"head.weight"},
    "encoder": {"2.1.weight"},
    "sequence_first": {"head.weight"},
    "constant_input": {"head.weight"},
    "skips": {"head.weight"},
    "parametrised": {"3.weight"},
    "batch_norm_1d": {"1.weight", "4.weight"},
}
"""The weights that nothing but few rows of their own layer's calls use."""


def displacement(
    model: nn.Module, state: ModelState, images: Tensor, labels: Tensor, velocity: dict[str, Tensor]
) -> dict[str, Tensor]:
    """What SGD moved each parameter by, less what `velocity` carries, over -lr and the path's length."""
    weights = {name: value.clone().requires_grad_(True) for name, value in state.parameters.items()}
    start, moving = weights, dict(velocity)
    carried = {name: torch.zeros_like(value) for name, value in velocity.items()}
    drift = dict(velocity)
    for batch in BATCHES:
        with twice_differentiable(model):
            logits = predict(
                model,
                ModelState(parameters=weights, buffers=state.with_own_buffers().buffers),
                images[list(batch)],
            )
        loss = soft_loss(labels[list(batch)][None])(logits[None]).sum()
        gradients = torch.autograd.grad(
            loss, list(weights.values()), create_graph=True, materialize_grads=True
        )
        moving = {
            name: MOMENTUM * moving[name] + gradient
            for name, gradient in zip(weights, gradients, strict=True)
        }
        weights = {name: value - LR * moving[name] for name, value in weights.items()}
        drift = {name: MOMENTUM * value for name, value in drift.items()}
        carried = {name: value + drift[name] for name, value in carried.items()}
    length = travelled(MOMENTUM, len(BATCHES))
    return {name: ((start[name] - weights[name]) / LR - carried[name]) / length for name in weights}


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("name", FACTORED)
def test_paths_are_unrolled_autograd(name: str, checkpoint: bool) -> None:
    model, _ = built(name)
    state = state_of(model)
    images, logits = some(SHAPE, name), some((3, CLASSES), "labels")
    velocity = {key: 0.1 * some(tuple(value.shape), key) for key, value in state.parameters.items()}
    factored = factored_weights(model, state, images[:2])
    assert set(factored) == FACTORED[name]
    path = LocalPath(
        model=model,
        state=state,
        lr=LR,
        momentum=MOMENTUM,
        velocity=velocity,
        batches=BATCHES,
        factored=factored,
        checkpoint=checkpoint,
    )
    mine, plain = ([leaf.clone().requires_grad_(True) for leaf in (images, logits)] for _ in range(2))
    found = path_handles(path, mine[0], mine[1].softmax(-1))
    expected = displacement(model, state, plain[0], plain[1].softmax(-1), velocity)
    totals = [torch.zeros((), dtype=torch.float64) for _ in range(2)]
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key].dense()[0], value, rtol=1e-9, atol=1e-9 * float(value.detach().abs().max()) + 1e-14
        )
        target = some(tuple(value.shape), f"target {key}")
        totals[0] = totals[0] + found[key].squared_distance(target, target.square().sum())[0]
        totals[1] = totals[1] + (value - target).square().sum()
    torch.testing.assert_close(*totals, rtol=1e-9, atol=0)
    slopes = [torch.autograd.grad(total, leaves) for total, leaves in zip(totals, (mine, plain), strict=True)]
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))
