"""Likelihood-ratio evidence: whether a signal with known errors supports an answer over the mean public image.

An attacker that knows the size of the error can tell an image that explains the signal from one that was fitted to
the error. Fitting k numbers to noise alone explains k units of the error's variance (Wilks 1938), so an answer has to
explain more than that beyond what the mean public image does (the idea of Akaike 1974).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from attack_core.base.types import Reconstruction
from attack_core.gradients.comparison.losses import loss_at, squared_distance
from attack_core.gradients.objectives import Signs
from attack_core.gradients.targets import gradient_estimate
from attack_core.signal.signal_model import (
    is_sparse,
    knows_errors,
    matched_numbers,
    precisions,
    sees_a_part,
    sends_signs,
    signal_energy,
)
from fl_core.base.types import Tensors
from fl_core.threat.observation import Observation


def pixels(observation: Observation) -> int:
    """How many numbers an attack on all images of the signal fits."""
    return observation.model.shape.numbers * observation.examples


@dataclass(frozen=True, kw_only=True)
class EvidenceLimits:
    """How much of a signal has to be there before an attack is worth its while."""

    least_numbers: float = 1 / 8
    """Fewer numbers than this share of the pixels leave the image to the prior.

    For images that are equally likely in every direction, equations of this share of the unknowns fix this share of the
    difference from the prior, 0.6 dB. Measured on cnn64 at 64 pixels: what is found from 880 numbers and fewer is 0.8
    to 1.3 dB worse than the mean image. Photographs are not equally likely in every direction: under pruning the gain
    just above the limit is still 3.1 dB on CelebA (docs/defenses/README.md), so a later limit could pay.
    """


EVIDENCE_LIMITS = EvidenceLimits()
"""The limits in force."""


def says_nothing(observation: Observation, limits: EvidenceLimits = EVIDENCE_LIMITS) -> str | None:
    """Why the answer is the prior whatever an attack would find; None where an attack is worth its while.

    Either every number is 0, or so few were sent that they hardly limit what the image may be.
    """
    sent = _numbers(observation)
    if not sent:
        return "every number of the signal is 0"
    if (is_sparse(observation) or sees_a_part(observation)) and sent < limits.least_numbers * pixels(
        observation
    ):
        return f"{sent} numbers that were sent hardly limit {pixels(observation)} pixels"
    return None


def too_weak(observation: Observation) -> bool:
    """Whether even the true images could not be told from images that are fitted to the known error."""
    if not knows_errors(observation) or sends_signs(observation):
        return False  # Signs of any gradient have the energy of pure noise: only an answer can be judged.
    energy = sum(signal_energy(each, gradient_estimate(each)) for each in observation.rounds)
    return energy < pixels(observation)


def is_supported(
    found: Reconstruction, prior: Reconstruction, observation: Observation, model: nn.Module
) -> bool:
    """Whether `found` explains the signal better than `prior` does by more than a fit to the error would."""
    explained = [misfit(observation, model, answer.images, answer.labels) for answer in (prior, found)]
    return explained[0] - explained[1] > pixels(observation)


def supported_or_prior(
    found: Reconstruction, observation: Observation, model: nn.Module, reason: str
) -> Reconstruction:
    """`found` where the signal supports it, else the prior with `reason` as its last note, at the cost of finding."""
    prior = prior_instead(found, observation, reason)
    return found if is_supported(found, prior, observation, model) else prior


def prior_instead(found: Reconstruction, observation: Observation, reason: str) -> Reconstruction:
    """The prior with the labels and the cost of what was found, and `reason` as its last note."""
    prior = prior_answer(observation, found.labels, reason)
    return replace(prior, iterations=found.iterations, work=found.work, notes=(*found.notes, *prior.notes))


def explains_more(found: float, prior: float, observation: Observation) -> bool:
    """Whether a matching loss is smaller than that of the prior by more than a fit to nothing would make it.

    The same idea where the size of the error is not known: of a residual that no image explains, k fitted numbers leave
    a factor of about exp(-k / n) to n numbers. There are no more than n to be fitted to. Numbers that are 0 are those
    of units that are off, and of what was withheld; they do not count.
    """
    return found < prior * math.exp(-min(pixels(observation) / max(_numbers(observation), 1), 1.0))


def _numbers(observation: Observation) -> int:
    """How many numbers of the signal are not 0, in all rounds."""
    return sum(int(tensor.count_nonzero()) for each in observation.rounds for tensor in each.tensors.values())


def misfit(observation: Observation, model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Squared distance of the images' gradient from the observed one in units of the known error's variance.

    `images` (B, 3, S, S) with `labels` (B,). Parameters without a known error are left out. Of several rounds the sum.
    """
    return sum(_misfit(each, model, images, labels) for each in observation.rounds)


def _misfit(observation: Observation, model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """What `misfit` is of one round."""
    gradients = gradient_estimate(observation)
    if sends_signs(observation):
        return _sign_misfit(observation, gradients, model, images, labels)
    matched = matched_numbers(observation, gradients, precisions(observation, gradients))
    device = matched.squares.device
    found = squared_distance(matched, model, observation.state, images.to(device), labels.to(device))
    return float(found)


def _sign_misfit(
    observation: Observation, gradients: Tensors, model: nn.Module, images: Tensor, labels: Tensor
) -> float:
    """What `misfit` is in general, minus twice the log-likelihood, of signs alone."""
    nats = {name: 2.0 * math.log(2.0) * value.numel() for name, value in gradients.items()}
    matched = matched_numbers(observation, gradients, nats)
    device = matched.squares.device
    found = loss_at(Signs(), matched, model, observation.state, images.to(device), labels.to(device))
    return len(nats) * float(found)


def prior_answer(observation: Observation, labels: Tensor | None, note: str) -> Reconstruction:
    """The mean public image, or grey where there is none, for every image of the signal.

    `labels` (B,) are what the attacker takes them for; the first class where it does not know.
    """
    picture, count = observation.model.shape.size, observation.examples
    mean = observation.public_mean
    image = torch.zeros(picture) if mean is None else mean.detach().cpu()
    images = image.expand(count, -1, -1, -1).clone()
    known = torch.zeros(count, dtype=torch.int64) if labels is None else labels.detach().cpu()
    return Reconstruction(
        images=images,
        labels=known,
        loss=math.nan,
        candidates=images[None],
        history=torch.zeros(1, 1),
        iterations=0,
        failed=0,
        method="prior alone",
        outcome="prior",
        notes=(note,),
        work=0.0,
    )
