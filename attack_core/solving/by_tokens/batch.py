"""A batch's images by a descent on the sum of their tokens' errors."""

from __future__ import annotations

import torch
from torch import nn

from attack_core.base.evaluations import Evaluations, reporter
from attack_core.base.types import Progress, Reconstruction
from attack_core.fc.layer_inputs import magnitude
from attack_core.gradients.targets import gradient_estimate
from attack_core.inversion.continuation import Continuation
from attack_core.inversion.descent.metric import PixelScale
from attack_core.signal.inits import initial_images
from attack_core.signal.signal_model import (
    exact_gradients,
    hides_the_scale,
    matched_numbers,
    mixes_labels,
    scales_examples,
)
from attack_core.solving.by_tokens.limits import TOKEN_BATCH_LIMITS, TokenBatchLimits
from attack_core.solving.distance import relative_distance
from attack_core.tokens.batches import BatchTokens
from attack_core.tokens.class_token import ClassToken, separate
from attack_core.tokens.embedding import find_embedding
from fl_core.base.errors import InputError
from fl_core.threat.observation import Observation


def batch_tokens(
    observation: Observation, model: nn.Module, limits: TokenBatchLimits = TOKEN_BATCH_LIMITS
) -> tuple[BatchTokens, str]:
    """What the pictures of a batch have to explain, and how that is known, in words.

    Raises `InputError` where the network has no patch embedding or its last block tells the images not apart, where the
    signal is not one exact gradient, and for many images.
    """
    count, state = observation.examples, observation.state
    if count > limits.most_images:
        raise InputError(f"the errors of the tokens of {count} images are known as a sum only")
    if observation.steps > 1 or observation.clients > 1:
        raise InputError(f"the errors of {count} images are known as a sum over several steps")
    if mixes_labels(observation) or scales_examples(observation) or hides_the_scale(observation):
        raise InputError(f"what the errors of {count} images are scaled by is not known")
    embedding = find_embedding(model, state, observation.model.shape)
    told, asked = state.parameters[embedding.positions].shape[-1] - 1, count * embedding.pixels.shape[1]
    if told < limits.least_equations * asked:
        raise InputError(f"tokens have {told} numbers for {asked} of the patches of {count} images")
    gradients, layers = exact_gradients(observation), ClassToken.of(model, state, observation.model.shape)
    for name in (embedding.positions, *layers.parameters):
        if name not in gradients:
            raise InputError(f"numbers of {name} were withheld")
    found, positions = separate(layers, state, gradients, count), gradients[embedding.positions]
    problem = BatchTokens(
        model=model,
        state=state,
        embedding=embedding,
        errors=positions.reshape(-1, positions.shape[-1]),
        labels=found.labels,
        head=layers.head,
        features=found.features,
    )
    note = (
        f"{layers.head} and {layers.last} tell {count} images apart, with labels and features; "
        f"their pictures from the gradient of {embedding.positions}"
    )
    return problem, note


def invert_batch(
    problem: BatchTokens,
    note: str,
    observation: Observation,
    model: nn.Module,
    generator: torch.Generator,
    progress: Progress | None,
    *,
    descent: Continuation,
    limits: TokenBatchLimits = TOKEN_BATCH_LIMITS,
) -> Reconstruction:
    """The answer to a batch of which `batch_tokens` gave `problem` and `note`, by `descent`."""
    seen, count = Evaluations(), observation.examples
    start = initial_images(
        "normal", (1, count, *observation.model.shape.size), std=limits.std, generator=generator
    )[0].to(problem.errors)
    if observation.public_mean is not None:
        start = start + observation.public_mean
    images = descent.minimise(
        problem.mismatch,
        start.clamp(-1.0, 1.0),
        measure=lambda images, _: PixelScale(problem.slopes(images, generator)),
        report=reporter(seen, descent.evaluations, progress, each=float(count)),
    ).clamp(-1.0, 1.0)
    gradients = gradient_estimate(observation)
    matched = matched_numbers(observation, gradients, dict.fromkeys(gradients, 1.0))
    loss = relative_distance(matched, model, observation.state, images, problem.labels)
    left = float(problem.mismatch(images).detach())
    images = images.cpu()
    return Reconstruction(
        images=images,
        labels=problem.labels.cpu(),
        loss=loss,
        candidates=images[None],
        history=torch.tensor(seen.mismatches)[:, None],
        iterations=len(seen.mismatches),
        failed=0,
        method="tokens: errors of a batch",
        outcome="analytic",
        notes=(f"{note}; what the answer leaves of them is a relative {magnitude(left)}",),
        work=seen.work,
    )
