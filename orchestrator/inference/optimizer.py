"""Which optimizer the sizes of an update's numbers show, where they are not SGD's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from defenses.compression.compression import SignOnly
from defenses.mechanism.base import Stage
from fl_core.base.rng import Random
from fl_core.base.types import ClientUpdate, ModelState, Tensors
from fl_core.federation.client import Batch, GradientRule
from fl_core.federation.rounds import FederationConfig

Kind = Literal["signs", "adaptive"]


@dataclass(frozen=True, kw_only=True)
class SizeLimits:
    """Where numbers have one size, or sizes that SGD does not give.

    Measured on four networks (two fully connected ones, a convolutional one, one with BatchNorm), 1 to 64 images in 1
    to 16 steps. Under Adam, AdamW, RMSprop and Adagrad the largest number is at most 6.0 times the root mean square,
    layers differ at most 3.5-fold and the kurtosis is at most 6.0; under SGD the least of them were 7.7, 3.6 and 7.1.
    """

    moved: float = 0.1
    """Numbers below this share of a tensor's largest were moved by weight decay or next to nothing."""
    same: float = 1.05
    """Numbers whose 90th percentile is at most this multiple of their 10th have one size."""
    share: float = 0.95
    """So large a share of the numbers must lie in tensors of one size."""
    crest: float = 6.5
    """The largest number over the root mean square."""
    layers: float = 3.5
    """The largest root mean square of a tensor over the smallest."""
    kurtosis: float = 6.5
    """The mean fourth power over the square of the mean square."""
    normal: float = 0.1
    """Numbers whose kurtosis is within this of 3 may be Gaussian noise."""
    least: int = 16
    """Tensors with fewer numbers that moved tell nothing."""


SIZE_LIMITS = SizeLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What the sizes show: `signs` alone, as after Adam's first step, or an `adaptive` method's; and their size."""

    kind: Kind
    size: float


def seen_optimizer(tensors: Tensors, limits: SizeLimits = SIZE_LIMITS) -> Optimizer | None:
    """The optimizer that an update's sizes show; None where they may be SGD's."""
    whole = [value.detach().double().abs().flatten().cpu() for value in tensors.values()]
    whole = [sizes[sizes > 0] for sizes in whole]
    whole = [sizes for sizes in whole if len(sizes) >= limits.least]
    if not whole:
        return None
    moved = [sizes[sizes > limits.moved * sizes.max()] for sizes in whole]
    same = sum(len(sizes) for sizes in moved if _alike(sizes, limits))
    size = float(torch.cat(moved).median())
    if same >= limits.share * sum(len(sizes) for sizes in moved):
        return Optimizer(kind="signs", size=size)
    sizes, roots = torch.cat(whole), [_root(each) for each in whole]
    kurtosis = float(sizes.pow(4).mean()) / _root(sizes) ** 4
    bounded = float(sizes.max()) <= limits.crest * _root(sizes) and kurtosis <= limits.kurtosis
    alike = max(roots) <= limits.layers * min(roots)
    if not (bounded and alike) or abs(kurtosis - 3.0) <= limits.normal:
        return None
    return Optimizer(kind="adaptive", size=size)


def _root(sizes: Tensor) -> float:
    """The root mean square."""
    return float(sizes.square().mean().sqrt())


def _alike(sizes: Tensor, limits: SizeLimits) -> bool:
    order = sizes.sort().values
    low, high = order[int(0.1 * (len(order) - 1))], order[int(0.9 * (len(order) - 1))]
    return bool(high <= limits.same * low)


@dataclass(frozen=True, kw_only=True)
class SignSteps(SignOnly):
    """Each local step goes along the signs of its gradient, as Adam's first one does (Kingma and Ba, ICLR 2015).

    After several steps of Adam this is an approximation: its later steps are shorter where gradients change sign.
    """

    stage: ClassVar[Stage] = "gradient"

    def on_gradient(self, rule: GradientRule, random: Random, plan: FederationConfig) -> GradientRule:  # noqa: ARG002
        """The signs of what `rule` gives, 0 for 0; see `Mechanism.on_gradient`."""

        def signs(model: nn.Module, state: ModelState, batch: Batch) -> dict[str, Tensor]:
            return {name: value.sign() for name, value in rule(model, state, batch).items()}

        return signs

    def on_update(self, update: ClientUpdate, random: Random, plan: FederationConfig) -> ClientUpdate:  # noqa: ARG002
        """The update itself, which such steps left; see `Mechanism.on_update`."""
        return update
