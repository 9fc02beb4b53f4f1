"""What one release tells of one image at most, and how near any attacker can come to the image with so much.

A release is a function of the image of bounded norm plus Gaussian noise. Whatever the function is, the release then has
at most (p / 2) log(1 + C^2 / (p sigma^2)) nats of information on the image (Shannon 1948: the capacity of p parallel
Gaussian channels), also for whoever knows the weights and every other image. An answer of small error would take more:
for images that are Gaussian, the least mean squared error that so many nats allow is known (reverse water-filling,
Kolmogorov 1956; Cover and Thomas, Elements of Information Theory, 10.3). No network takes part in it.

Two bounds of the field assume other things: Guo et al. 2022 (arXiv:2201.12383) unbiased attackers or a smooth prior,
and the Fisher information of the network at hand; Hayes et al. 2023 (arXiv:2302.07225) the chance of success without
a signal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fl_core.federation.rounds import FederationConfig
from fl_core.threat.facts import Clip, ExampleClip, Fact, Noise, StepNoise

F = TypeVar("F", bound=Fact)


def nats_of_one_image(
    facts: Iterable[Fact], plan: FederationConfig, *, numbers: int, steps: int
) -> float | None:
    """The most nats of one image in a round's release of so many `numbers`; None where nothing bounds them.

    `facts` are those of the chain in the federation `plan`; `steps` is in how many local steps an image can be. What
    the round's weights already tell of the image is not counted.
    """
    found = tuple(facts)
    clip, noise = _of(found, Clip), _of(found, Noise)
    example, step = _of(found, ExampleClip), _of(found, StepNoise)
    if clip is not None and noise is not None and noise.distribution == "gaussian":
        return capacity(clip.max_norm, noise.sigma, numbers)
    if example is not None and step is not None:
        return steps * capacity(example.max_norm / plan.local.batch_size, step.sigma, numbers)
    return None


def capacity(norm: float, sigma: float, numbers: int) -> float:
    """The most nats of `numbers` numbers of this L2 `norm` together, or less, that noise of deviation `sigma` lets by.

    The mean of squares is what counts: it may be `norm` squared in the mean alone.
    """
    return 0.5 * numbers * math.log1p(norm**2 / (numbers * sigma**2))


def least_mse(variances: npt.NDArray[np.float64], nats: float) -> float:
    """The least mean squared error, a number, of Gaussian images with so many `nats` known of each.

    `variances` (n,) are the eigenvalues of their covariance, those that are 0 included.
    """
    held = np.sort(variances[variances > 0])[::-1]
    if not len(held):
        return 0.0
    # The k largest variances are brought down to one level where the next is below it.
    counts = np.arange(1, len(held) + 1)
    levels = np.exp((np.cumsum(np.log(held)) - 2.0 * nats) / counts)
    deepest = np.nonzero(levels <= held)[0]
    level = levels[deepest[-1]] if len(deepest) else held[0]
    return float(np.minimum(held, level).sum() / len(variances))


def spectrum(images: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The eigenvalues (n,) of the covariance of images (N, n), N of two or more; at most N - 1 of them are not 0.

    Of few images the spectrum is steeper than that of many, and so the bound lower: the least error is concave in the
    covariance.
    """
    count, numbers = images.shape
    centred = images - images.mean(0)
    # Of the two products with the same eigenvalues the smaller one.
    square = centred @ centred.T if count < numbers else centred.T @ centred
    found = np.linalg.eigvalsh(square / (count - 1)).clip(0.0)
    found[found < 1e-12 * found.max(initial=0.0)] = 0.0
    return np.concatenate([found, np.zeros(max(0, numbers - len(found)))])


def _of(facts: tuple[Fact, ...], kind: type[F]) -> F | None:
    return next((fact for fact in facts if isinstance(fact, kind)), None)
