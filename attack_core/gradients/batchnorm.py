"""BatchNorm statistics of candidate images, beside those that the network has stored or that a client's batch had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.modules.batchnorm import _BatchNorm

from attack_core.gradients.tracing import couples_examples
from fl_core.base.shape import ImageShape
from fl_core.base.types import ModelState
from fl_core.models.forward import predict
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class BatchNormLimits:
    """What keeps the distance of statistics finite."""

    least_variance: float = 1e-5
    """The least variance that differences are divided by, in squared units of a layer's input: that of PyTorch's own
    `eps`, below which a channel counts as constant."""


BATCH_NORM_LIMITS = BatchNormLimits()
"""The limits in force."""


def has_batch_norm(model: nn.Module) -> bool:
    """Whether the network has a layer with running statistics."""
    return any(_has_statistics(module) for module in model.modules())


@dataclass(frozen=True)
class SeenStatistics:
    """What BatchNorm layers saw of a client's batches: each channel's `mean` (F,) and `variance` (F,), by layer.

    The variance is the unbiased one, which PyTorch keeps. After several batches both are means over them, in which the
    last count most: by (1 - momentum)^k for k batches after it, or all alike where the layer keeps plain means.
    """

    mean: Mapping[str, Tensor]
    variance: Mapping[str, Tensor]
    batches: int
    """Over how many batches they are averaged."""

    @classmethod
    def of(cls, observation: Observation, model: nn.Module) -> SeenStatistics | None:
        """From the change of the running statistics by arithmetic, exact for one batch; None where it is not seen."""
        changes, before = observation.statistics, observation.state.buffers
        mean, variance, most = dict[str, Tensor](), dict[str, Tensor](), 0
        for name, module in model.named_modules():
            prefix = f"{name}." if name else ""
            if not _has_statistics(module) or f"{prefix}running_mean" not in changes:
                continue
            layer = cast("_BatchNorm", module)
            counted = f"{prefix}num_batches_tracked"
            batches = max(1, round(float(changes[counted])))
            share = _share(layer, batches, int(before[counted]))
            mean[name], variance[name] = (
                (before[f"{prefix}{kind}"].double() + changes[f"{prefix}{kind}"].double() / share).float()
                for kind in ("running_mean", "running_var")
            )
            most = max(most, batches)
        return cls(mean, variance, most) if mean else None

    @torch.no_grad()
    def settled(
        self, model: nn.Module, state: ModelState, images: int, shape: ImageShape
    ) -> tuple[nn.Module, ModelState]:
        """The network in evaluation mode with these statistics of one batch of so many `images`, and its state.

        Each image by itself has there, to rounding, the activations that it had in the batch.
        """
        device = next(iter(state.parameters.values())).device
        with _inputs(model) as seen:
            predict(model, state.with_own_buffers(), torch.zeros((images, *shape.size), device=device))
            counts = {name: inputs.numel() // inputs.shape[1] for name, inputs in seen.items()}
        network, buffers = deepcopy(model).eval(), dict(state.buffers)
        for name, count in counts.items():
            if name in self.mean:
                prefix = f"{name}." if name else ""
                buffers[f"{prefix}running_mean"] = self.mean[name]
                # A batch is normalised by the biased variance.
                buffers[f"{prefix}running_var"] = self.variance[name] * ((count - 1) / count)
        return network, ModelState(parameters=state.parameters, buffers=buffers)

    def distance(self, model: nn.Module, state: ModelState, images: Tensor) -> Tensor:
        """How far candidates' statistics are from these: images (C, B, 3, S, S) to (C,).

        The mean over layers and channels of squared differences: of means in units of the seen deviation, and of
        variances in units of the seen variance. So no layer counts for more than another by its size.
        """
        parts = []
        for name, mean, variance in _of_candidates(model, state, images, unbiased=True):
            if name not in self.mean:
                continue
            unit = self.variance[name].clamp_min(BATCH_NORM_LIMITS.least_variance)
            off = (mean - self.mean[name]).square() / unit
            parts.append((off + ((variance - self.variance[name]) / unit).square()).mean(1))
        return torch.stack(parts).mean(0)


def _share(layer: _BatchNorm, batches: int, before: int) -> float:
    """How much of the running statistics that many batches replaced."""
    if layer.momentum is None:
        return batches / (before + batches)
    return float(1.0 - (1.0 - layer.momentum) ** batches)


def statistics_distance(
    model: nn.Module, state: ModelState, images: Tensor, seen: SeenStatistics | None = None
) -> Tensor:
    """How far candidates' statistics are from those `seen`, or else from the running ones: (C, B, 3, S, S) to (C,).

    Sum over BatchNorm layers of the L2 distances between each channel's mean, and variance, over a candidate's
    images and pixels and those in `seen`, or the running ones in `state` (Yin et al. 2021, arXiv:2104.07586; Huang et
    al. 2021, arXiv:2112.00059, for the batch's own). `state` is left alone.
    """
    total = images.new_zeros(len(images))
    for name, mean, variance in _of_candidates(model, state, images, unbiased=seen is not None):
        prefix = f"{name}." if name else ""
        if seen is None:
            means, variances = (state.buffers[f"{prefix}{kind}"] for kind in ("running_mean", "running_var"))
        elif name in seen.mean:
            means, variances = seen.mean[name], seen.variance[name]
        else:
            continue
        total = total + vector_norm(mean - means, dim=1) + vector_norm(variance - variances, dim=1)
    return total


def _of_candidates(
    model: nn.Module, state: ModelState, images: Tensor, *, unbiased: bool
) -> list[tuple[str, Tensor, Tensor]]:
    """Each layer's name with the means and variances (C, F) of its inputs for candidates' images (C, B, 3, S, S)."""
    if not couples_examples(model):
        return _of_pass(model, state, images.flatten(0, 1), len(images), unbiased)
    # In train mode a batch is normalised by its own statistics, so each candidate needs a pass of its own.
    alone = [_of_pass(model, state, candidate, 1, unbiased) for candidate in images]
    return [
        (
            each[0][0],
            torch.cat([mean for _, mean, _ in each]),
            torch.cat([variance for _, _, variance in each]),
        )
        for each in zip(*alone, strict=True)
    ]


def _of_pass(
    model: nn.Module, state: ModelState, images: Tensor, candidates: int, unbiased: bool
) -> list[tuple[str, Tensor, Tensor]]:
    with _inputs(model) as seen:
        predict(model, state.with_own_buffers(), images)
    found = []
    for name, activations in seen.items():
        grouped = activations.unflatten(0, (candidates, -1))
        others = (1, *range(3, grouped.dim()))
        found.append((name, grouped.mean(others), grouped.var(others, unbiased=unbiased)))
    return found


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
