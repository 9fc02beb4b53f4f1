"""The certificate of an image that was searched: whether what was read of it determines it, as far as slopes tell.

A random change of the image is sent through the network's slopes, and least squares has to find it again from what it
changes. A direction that changes nothing is not found, and a random change has a part along every direction. On the
way the steps meet the smallest singular value of the map, and what the image leaves of what was read, over that value,
bounds its distance from an image that leaves nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attack_core.base.certificate import Certificate, least_psnr, undetermined
from attack_core.certificates.inputs import input_errors
from attack_core.certificates.linearised import Linearised, Seen
from attack_core.convolutions.masks import DecodedInput
from attack_core.fc.head import Prefix
from attack_core.fc.layer_inputs import LayerInputs
from fl_core.base.decibels import TINY
from fl_core.base.errors import InputError
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class LocalLimits:
    """How long the random change is looked for, and when it counts as found."""

    turns: int = 400
    """Least squares: steps at most. 40 to 240 were enough on faces of CelebA's training split (cnn64, vgg11)."""
    most_unknowns: int = 4096
    """Images of more numbers have no certificate of this kind.

    cnn64 at 64 pixels, 12,288 numbers: the condition is 300 to 420, and after 400 steps, 3.3 CPU-seconds, the change
    was found on 2 of 21 CelebA faces only. The search itself takes 3 CPU-seconds.
    """
    found: float = 1e-2
    """The squared L2 distance at which the change is found again.

    A direction that changes nothing leaves the square of a normal number: less than this in 8 of 100 cases, where it is
    the only one.
    """
    rounding: float = 1e-6
    """Singular values below this share of the largest are what float32 leaves of 0."""


LOCAL_LIMITS = LocalLimits()
"""The limits in force."""


def certify_locally(
    seen: Seen,
    target: Tensor,
    images: Tensor,
    *,
    error: float = 0.0,
    limits: LocalLimits = LOCAL_LIMITS,
) -> Certificate | None:
    """Of one image (1, C, H, W) that was searched by what was read of it, `target` (1, I), to a relative `error`.

    None for an image of too many numbers. `seen` is the map from image to what is read. Numbers that are 0 say nothing,
    as a ReLU hides by how much.
    """
    unknowns = images.numel()
    with torch.no_grad():
        value = seen(images)
    size = max(float(torch.linalg.vector_norm(target)), TINY)
    residual = float(torch.linalg.vector_norm(value - target)) / size
    equations = int((value != 0).sum())
    if equations < unknowns:
        return undetermined(unknowns, equations, residual, "nearby")
    if unknowns > limits.most_unknowns:
        return None
    # Any draws do; made anew, they leave the attack's own alone.
    generator = torch.Generator().manual_seed(0)
    try:
        slopes = Linearised.at(seen, images, generator)
    except InputError:
        return undetermined(unknowns, 0, residual, "nearby")
    change = torch.randn(images.shape, generator=generator).to(images)

    def missed(scaled: Tensor) -> float:
        return float((slopes.coordinates.images(scaled) - change).square().sum())

    solved = slopes.solve(
        slopes.forward(slopes.coordinates.scaled(change)),
        turns=limits.turns,
        enough=lambda scaled: missed(scaled) < limits.found,
    )
    left = missed(solved.found)
    scale = slopes.coordinates.scale
    # Coordinates are pixels times the scale, turned: no direction loses more than the least scale.
    least, largest = solved.least * float(scale.min()), solved.largest * float(scale.max())
    if left >= limits.found or least <= limits.rounding * largest:
        return undetermined(unknowns, unknowns - math.ceil(left), residual, "nearby")
    distance = (residual + error) * size / least
    return Certificate(
        unknowns=unknowns,
        rank=unknowns,
        condition=largest / least,
        residual=residual,
        psnr=least_psnr(distance, unknowns),
        reach="nearby",
    )


def certify_features(
    read: LayerInputs,
    observation: Observation,
    model: nn.Module,
    images: Tensor,
    decoded: DecodedInput | None = None,
) -> tuple[Certificate | None, ...]:
    """One for each of the `images` (B, C, H, W) that `read` has features of, by these alone, or by what was `decoded`.

    Others may follow and have none. None too where `input_errors` has none.
    """
    inputs = read.shares.inputs
    errors = input_errors(read, observation)
    if errors is None:
        return (None,) * len(inputs)
    off = errors.distances.to(inputs) / torch.linalg.vector_norm(inputs, dim=1)
    layer = read.head.first
    if decoded is not None:
        layer, inputs, off = decoded.layer, decoded.values.flatten(1), off.clamp_min(decoded.error)
    prefix = Prefix(model, observation.state, layer)
    return tuple(
        certify_locally(prefix, target[None], image[None], error=float(error))
        for image, target, error in zip(images, inputs, off, strict=False)
    )
