"""One image of a transformer by linear equations in its patches."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from attack_core.base.types import Reconstruction
from attack_core.evidence.likelihood_ratio import prior_answer
from attack_core.fc.layer_inputs import magnitude
from attack_core.gradients.comparison.losses import squared_distance_of
from attack_core.gradients.targets import gradient_estimate
from attack_core.signal.labels import label_of_image, sends_last_layer, single_label
from attack_core.signal.signal_model import deviations, matched_numbers
from attack_core.solving.distance import relative
from attack_core.tokens.embedding import PatchEmbedding
from attack_core.tokens.equations import Solution, TokenEquations
from attack_core.tokens.spanned import solve_spanned
from attack_core.tokens.spanning_layer import SpanningLayer
from fl_core.base.types import Tensors
from fl_core.federation.client import loss_gradient
from fl_core.threat.observation import Observation


def solve_tokens(
    found: PatchEmbedding | SpanningLayer, observation: Observation, model: nn.Module
) -> Reconstruction:
    """The answer to an observation of which `solvable_tokens` gave `found`.

    Raises `InputError` where noise drowns the span of a layer's tokens.
    """
    gradients = gradient_estimate(observation)
    read = found.positions if isinstance(found, PatchEmbedding) else found.weight
    if not (bool(gradients[read].any()) and bool(gradients[found.weight].any())):
        labels = single_label(observation) if sends_last_layer(observation) else None
        return prior_answer(observation, labels, f"tokens: the gradient of {read} is 0")
    mean = observation.public_mean
    if mean is None:
        mean = torch.zeros(observation.model.shape.size, device=gradients[read].device)
    known = deviations(observation, gradients)
    solved, how = (
        _by_errors(found, gradients, known, mean)
        if isinstance(found, PatchEmbedding)
        else _by_span(found, gradients, known, mean, observation, model)
    )
    images = solved.picture.to(gradients[read].device)[None].clamp(-1.0, 1.0)
    labels = label_of_image(observation, model, images)
    matched = matched_numbers(observation, gradients, dict.fromkeys(gradients, 1.0))
    own = loss_gradient(model, observation.state, (images, labels))
    loss = relative(squared_distance_of(matched, own), matched)
    images = images.cpu()
    noisy = known[read] > 0 or known[found.weight] > 0
    note = how + (", known noise" if noisy else f", residual below {magnitude(solved.residual)}")
    return Reconstruction(
        images=images,
        labels=labels.cpu(),
        loss=loss,
        candidates=images[None],
        history=torch.tensor([[loss]]),
        iterations=1,
        failed=0,
        method="tokens: least squares",
        outcome="analytic",
        notes=(note,),
        work=0.0,
        certificates=(solved.certificate,),
    )


def _by_errors(
    embedding: PatchEmbedding, gradients: Tensors, known: Mapping[str, float], mean: Tensor
) -> tuple[Solution, str]:
    """The solution by the gradients of embedding and positions, and how it was found."""
    equations = TokenEquations(
        embedding=embedding,
        errors=embedding.errors_of(gradients[embedding.positions]),
        weight=gradients[embedding.weight].flatten(1),
        error_sigma=known[embedding.positions],
        weight_sigma=known[embedding.weight],
    )
    solved = equations.solve(mean)
    return solved, (
        f"{embedding.tokens} patches from the gradients of {embedding.weight} and {embedding.positions}, "
        f"of which {solved.determined} directions follow from the equations"
    )


def _by_span(
    layer: SpanningLayer,
    gradients: Tensors,
    known: Mapping[str, float],
    mean: Tensor,
    observation: Observation,
    model: nn.Module,
) -> tuple[Solution, str]:
    """The solution by the span of a layer's tokens, and how it was found."""
    solved = solve_spanned(layer, model, observation.state, gradients, mean, sigma=known[layer.weight])
    return solved, (
        f"{layer.layout.tokens} patches from the rows of {layer.weight}'s gradient, which span {solved.determined} of "
        f"{layer.tokens} tokens"
    )
