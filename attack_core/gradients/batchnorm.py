"""BatchNorm statistics of candidate images, beside those that the network has stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.modules.batchnorm import _BatchNorm

from attack_core.gradients.tracing import couples_examples
from fl_core.base.types import ModelState
from fl_core.models.forward import predict


def has_batch_norm(model: nn.Module) -> bool:
    """Whether the network has a layer with running statistics."""
    return any(_has_statistics(module) for module in model.modules())


def statistics_distance(model: nn.Module, state: ModelState, images: Tensor) -> Tensor:
    """How far candidates' statistics are from the running ones: images (C, B, 3, S, S) to (C,).

    Sum over BatchNorm layers of the L2 distances between each channel's mean, and variance, over a candidate's
    images and pixels and the running ones in `state` (Yin et al. 2021, arXiv:2104.07586). `state` is left alone.
    """
    if not couples_examples(model):
        return _distances(model, state, images.flatten(0, 1), len(images))
    # In train mode a batch is normalised by its own statistics, so each candidate needs a pass of its own.
    return torch.cat([_distances(model, state, candidate, 1) for candidate in images])


def _distances(model: nn.Module, state: ModelState, images: Tensor, candidates: int) -> Tensor:
    with _inputs(model) as seen:
        predict(model, state.with_own_buffers(), images)
    total = torch.zeros(candidates, device=images.device)
    for name, activations in seen.items():
        grouped = activations.unflatten(0, (candidates, -1))
        others = (1, *range(3, grouped.dim()))
        mean = grouped.mean(others) - state.buffers[f"{name}.running_mean"]
        variance = grouped.var(others, unbiased=False) - state.buffers[f"{name}.running_var"]
        total = total + vector_norm(mean, dim=1) + vector_norm(variance, dim=1)
    return total


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


@contextmanager
def _inputs(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Inputs of the BatchNorm layers by name, filled by a forward pass."""
    seen: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if _has_statistics(module):

                def keep(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                    seen[name] = inputs[0]

                hooks.callback(module.register_forward_pre_hook(keep).remove)
        yield seen
