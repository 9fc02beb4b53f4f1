"""What an attacker may know of a defense: facts about the numbers in a released signal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from fl_core.base.types import Tensors
from fl_core.data.transforms import Transform


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Each update was scaled to at most this L2 norm (over all tensors, in units of the released signal)."""

    max_norm: float


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Independent noise of this standard deviation was added to every released number."""

    distribution: Literal["gaussian", "laplace"]
    sigma: float


@dataclass(frozen=True, kw_only=True)
class MeanNoise:
    """Independent Gaussian noise of this standard deviation was added to every number of the mean of a round's updates.

    The server adds it, so that it is in what becomes public and not in what the server itself has seen.
    """

    sigma: float


@dataclass(frozen=True, kw_only=True)
class ExampleClip:
    """At each local step every example's gradient was scaled to at most this L2 norm before they were averaged."""

    max_norm: float


@dataclass(frozen=True, kw_only=True)
class StepNoise:
    """Independent Gaussian noise of this standard deviation was added to every number of each local step's gradient."""

    sigma: float

    def in_delta(self, *, lr: float, momentum: float, steps: int) -> float:
        """The standard deviation of what it adds to a weight delta of so many steps from zero momentum.

        The noise of the k-th step from the end moves the weights by lr (1 + m + ... + m^(k-1)) of itself. What it does
        to the gradients of later steps is not in it.
        """
        carried = (sum(momentum**i for i in range(k)) for k in range(1, steps + 1))
        return lr * self.sigma * math.sqrt(sum(factor**2 for factor in carried))


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """Only some numbers of each update were sent: those that are 0 in it were withheld.

    A withheld number is at most as large, in absolute value, as the smallest that was sent: of its tensor where
    `scope` is `tensor`, of the whole update where it is `all`.
    """

    scope: Literal["all", "tensor"]


@dataclass(frozen=True, kw_only=True)
class Quantiser:
    """Every number was rounded to one of 2^`bits` values, evenly spread over its tensor's [-m, m].

    m is the largest absolute value of the tensor and is sent too, so that the values can be told from the signal.
    With `scheme` `stochastic` the rounding goes up or down at random and is right on average; with `sign` the one bit
    is the sign, and m the tensor's mean absolute value.
    """

    scheme: Literal["stochastic", "sign"]
    bits: int


@dataclass(frozen=True, kw_only=True)
class PrunedRepresentation:
    """In each local step some columns of one fully connected layer's weight gradient were replaced by 0.

    They belong to the layer's inputs that were cut; which ones is not told. `layer` says which of the network's
    fully connected layers it is.
    """

    layer: Literal["first", "last"]


@dataclass(frozen=True, kw_only=True, eq=False)
class InTheClear:
    """Only some numbers of the update reached the server as numbers, the rest encrypted, which the signal has as 0.

    `masks` says which, by parameter name: True where a number is what it was. Nothing bounds the others.
    """

    masks: Tensors

    def to(self, device: torch.device) -> InTheClear:
        """The same with every mask on `device`."""
        return InTheClear(masks={name: mask.to(device) for name, mask in self.masks.items()})


@dataclass(frozen=True, kw_only=True)
class RandomCode:
    """The network's bottleneck drew its code anew for each image, and `beta` times its divergence is in the loss."""

    beta: float


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Each image of a local batch was mixed with the next one of a random circle, and labels likewise.

    A batch has one share, from Beta(`alpha`, `alpha`).
    """

    alpha: float


@dataclass(frozen=True, kw_only=True)
class HiddenMixture:
    """Each image of a local batch was mixed with `images` - 1 others of it; then each number's sign was drawn anew."""

    images: int


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """Each image was changed by the transforms of `policy`, each with a draw of its own, before it was trained on."""

    policy: tuple[Transform, ...]


Fact = (
    Clip
    | Noise
    | MeanNoise
    | ExampleClip
    | StepNoise
    | Sparsity
    | Quantiser
    | PrunedRepresentation
    | InTheClear
    | RandomCode
    | Mixture
    | HiddenMixture
    | Augmented
)
