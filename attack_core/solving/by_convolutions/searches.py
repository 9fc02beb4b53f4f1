"""The searches for images that convolutions saw as they did: of one image, and of each of a batch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from attack_core.base.evaluations import Evaluations, reporter
from attack_core.base.types import Progress, Reconstruction
from attack_core.certificates.local import certify_locally
from attack_core.fc.layer_inputs import magnitude
from attack_core.gradients.targets import gradient_estimate
from attack_core.inversion.continuation import Continuation
from attack_core.inversion.descent.cosine import CosinePreconditioner
from attack_core.inversion.descent.given import Measure
from attack_core.inversion.descent.limits import FEW_CARRIED
from attack_core.inversion.joint import JointInputs
from attack_core.signal.labels import single_label
from attack_core.signal.signal_model import matched_numbers
from attack_core.solving.by_convolutions.batch_inputs import BatchInputs, labels_of
from attack_core.solving.by_convolutions.deep_inputs import DeepInputs
from attack_core.solving.distance import relative_distance
from attack_core.solving.known_before import known_before
from fl_core.base.rng import drawn_generators
from fl_core.threat.observation import Observation


def invert(
    known: DeepInputs,
    observation: Observation,
    model: nn.Module,
    generator: torch.Generator,
    progress: Progress | None,
    *,
    descent: Continuation,
    certify: bool,
) -> Reconstruction:
    """The answer to an observation of which `deep_inputs` gave `known`, by `descent`."""
    joint = JointInputs.of(model, observation.state, known.layers, known.values)
    start = known_before(observation, generator).to(joint.target)
    seen = Evaluations()
    images = descent.minimise(
        joint.mismatch,
        start,
        measure=_measure(joint, generator),
        report=reporter(seen, descent.evaluations, progress),
        limits=FEW_CARRIED,
    ).clamp(-1.0, 1.0)
    with torch.no_grad():
        left = float(joint.mismatch(images))
    found = _answer(
        observation,
        model,
        images,
        single_label(observation),
        seen,
        method="convolutions: inputs",
        note=f"{known.note}; the image explains them to a relative {magnitude(left)}",
    )
    if not certify:
        return found
    certificate = certify_locally(joint.seen, joint.target, images, error=known.error)
    return replace(found, certificates=(certificate,))


def invert_batch(
    known: BatchInputs,
    observation: Observation,
    model: nn.Module,
    generator: torch.Generator,
    progress: Progress | None,
    *,
    descent: Continuation,
) -> Reconstruction:
    """The answer to a batch of which `batch_inputs` gave `known`: each image is searched by itself, by `descent`."""
    joint = JointInputs.of(known.model, known.state, known.layers, known.values)
    seen, count = Evaluations(), observation.examples
    start = known_before(observation, generator).to(joint.target).repeat(count, 1, 1, 1)
    images = descent.minimise_each(
        joint.missed_each,
        start,
        measures=[_measure(joint, own) for own in drawn_generators(generator, count)],
        stiffness=1.0,
        errors=[0.0] * count,
        report=reporter(seen, count * descent.evaluations, progress),
        limits=FEW_CARRIED,
    ).clamp(-1.0, 1.0)
    labels = labels_of(observation, known, images, generator)
    method = "convolutions: inputs of a batch"
    return _answer(observation, model, images, labels, seen, method=method, note=known.note)


def _measure(joint: JointInputs, generator: torch.Generator) -> Measure:
    """Gains by frequency: behind many layers those of windows lead astray (docs/decisions, 0118)."""
    return lambda images, _: CosinePreconditioner.measured(joint.seen, images, generator)


def _answer(
    observation: Observation,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seen: Evaluations,
    *,
    method: str,
    note: str,
) -> Reconstruction:
    """The images (B, 3, S, S) that a descent found, with how far their gradient is from the observed one."""
    gradients = gradient_estimate(observation)
    matched = matched_numbers(observation, gradients, dict.fromkeys(gradients, 1.0))
    loss = relative_distance(matched, model, observation.state, images, labels)
    images = images.cpu()
    return Reconstruction(
        images=images,
        labels=labels.cpu(),
        loss=loss,
        candidates=images[None],
        history=torch.tensor(seen.mismatches)[:, None],
        iterations=len(seen.mismatches),
        failed=0,
        method=method,
        outcome="analytic",
        notes=(note,),
        work=seen.work,
    )
