"""Whether what the analytic attack found is worth more than the prior, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from attack_core.base.certificate import Certificate
from attack_core.base.evaluations import reporter
from attack_core.base.types import Reconstruction
from attack_core.certificates.local import certify_features
from attack_core.convolutions.masks import DecodedInput
from attack_core.evidence.likelihood_ratio import prior_instead, supported_or_prior
from attack_core.fc.layer_inputs import magnitude
from attack_core.inversion.feature_fit import FeatureFit
from attack_core.signal.signal_model import knows_errors
from attack_core.solving.by_features.problem import PRIOR, Problem


def is_noise(problem: Problem, start: Tensor) -> bool:
    """Whether what was read of one image, with errors that nobody told, is noise and nothing else."""
    read = problem.read
    if read.error or problem.count > 1 or read.shares.others is not None:
        return False
    fit = FeatureFit(
        observation=problem.observation,
        model=problem.model,
        read=read,
        layer=read.head.first,
        targets=read.shares.inputs,
    )
    return fit.noise_alone(start)


def judged(problem: Problem, images: Tensor, start: Tensor, notes: list[str]) -> Reconstruction:
    """What was found from noisy features, or the prior where the rest of the signal is not for it."""
    found = problem.result("analytic: features", images, notes)
    reason = "the image explains the signal no better than a fit to the known noise would"
    if problem.count > 1:
        answer = supported_or_prior(found, problem.observation, problem.model, reason)
    else:
        answer = prior_instead(found, problem.observation, reason) if torch.equal(images, start) else found
    return fitted_if_better(problem, answer if answer is found else replace(answer, method=PRIOR))


def supported(problem: Problem, found: Reconstruction) -> Reconstruction:
    """What was found, or the prior where known errors explain as much of the signal."""
    if not knows_errors(problem.observation):
        return found
    reason = "the images explain the signal no better than a fit to the known noise would"
    return supported_or_prior(found, problem.observation, problem.model, reason)


def fitted_if_better(problem: Problem, found: Reconstruction) -> Reconstruction:
    """A fit to the whole gradient where numbers that it has not seen are for it, else `found`."""
    manner, read, seen = problem.manner, problem.read, problem.seen
    if manner.refine == "never" or problem.count > 1:
        return found
    fit = problem.rounds.fit(problem.model, read.shares.labels, problem.generator)
    planned = manner.inversion.evaluations + manner.refinement.evaluations
    report = reporter(seen, planned, problem.progress, each=1.0)
    if fit is None:
        return found
    images = fit.minimise(manner.refinement, problem.start_of_one(), report, problem.penalty)
    if images is None:
        return found
    if not fit.is_better(images, found.images.to(images)):
        return replace(found, iterations=len(seen.mismatches), work=seen.work)
    notes = [
        *found.notes,
        "the network is smooth: fitted to all layers' gradients within the known noise",
    ]
    return problem.result("analytic: whole gradient", images, notes)


def checked_fit(
    problem: Problem, found: Reconstruction, prior: Tensor, decoded: DecodedInput | None = None
) -> Reconstruction:
    """`found` with a note where it leaves what is known exactly unexplained; `prior` where it is worth no more."""
    read, observation, model = problem.read, problem.observation, problem.model
    layer, targets = read.head.first, read.shares.inputs
    exact = (
        read.complete and read.shares.residual <= problem.manner.reading.tolerance and observation.steps == 1
    )
    if decoded is not None:
        layer, targets = decoded.layer, decoded.values.flatten(1)
    elif not exact:
        return found
    judge = FeatureFit(observation=observation, model=model, read=read, layer=layer, targets=targets)
    images = found.images.to(prior.device)
    mismatch = judge.mismatch(images)
    if mismatch <= judge.limits.unexplained:
        if not problem.manner.certify:
            return found
        return certified(found, certify_features(read, observation, model, images, decoded))
    what = "features" if decoded is None else f"input of {layer}"
    note = f"the answer does not explain the {what}: relative mismatch {magnitude(mismatch)}"
    found = replace(found, notes=(*found.notes, note))
    # Where the features' own gradient is off, so may be that of the first layer, which judges.
    if not exact or not judge.no_better_than_prior(images, prior):
        return found
    reason = (
        "what was trained on was not recovered: the answer explains the first layer's gradient hardly better "
        f"than {problem.prior_name}, which is taken instead"
    )
    answer = prior_instead(found, observation, reason)
    return replace(answer, method=PRIOR)


def certified(found: Reconstruction, certificates: tuple[Certificate | None, ...]) -> Reconstruction:
    """`found` with certificates of the images that came apart; the others have none."""
    others = len(found.images) - len(certificates)
    return replace(found, certificates=(*certificates, *[None] * others))
