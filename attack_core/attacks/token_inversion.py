"""The attack on transformers: one image's patches by linear equations, a batch by a descent on its tokens' errors.

The gradient of a learned position embedding is every token's error, and the patch embedding's gradient is linear in the
patches (`attack_core.tokens.equations`). Where clients do not train these two, the rows of the first attention's
gradient span the tokens, each of which is a function of its patch (`attack_core.tokens.spanned`). Both hold for a
weight delta over several local steps on one image too, since each step adds its errors times the same patches, or
tokens.

Of a batch only the sum of the images' errors is known, and a descent finds the pictures whose errors add up to it
(`attack_core.tokens.batches`). Where the last block tells the images apart (`attack_core.tokens.class_token`), each has
its label and its features for the descent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, Self

import torch
from torch import Tensor, nn

from attack_core.attacks.analytic import relative, relative_distance
from attack_core.attacks.falls_back import FallsBack
from attack_core.base.evaluations import Evaluations, reporter
from attack_core.base.types import Progress, Reconstruction
from attack_core.evidence.likelihood_ratio import prior_answer
from attack_core.fc.layer_inputs import magnitude
from attack_core.gradients.comparison.losses import squared_distance_of
from attack_core.gradients.targets import check_observation, gradient_estimate
from attack_core.inversion.continuation import Continuation
from attack_core.inversion.preconditioner import PixelScale
from attack_core.matching.matching import Matching
from attack_core.signal.inits import initial_images
from attack_core.signal.labels import label_of_image, last_matrix, sends_last_layer, single_label
from attack_core.signal.signal_model import (
    deviations,
    exact_gradients,
    hides_the_scale,
    matched_numbers,
    mixes_labels,
    rounds_fairly,
    scales_examples,
    sends_signs,
    withholds,
)
from attack_core.tokens.batches import BatchTokens
from attack_core.tokens.class_token import ClassToken, separate
from attack_core.tokens.embedding import PatchEmbedding, find_embedding
from attack_core.tokens.equations import Solution, TokenEquations
from attack_core.tokens.spanned import solve_spanned
from attack_core.tokens.spanning_layer import SpanningLayer, find_spanning
from fl_core.base.errors import InputError
from fl_core.base.types import LATER, Tensors
from fl_core.federation.client import loss_gradient
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class TokenBatchLimits:
    """Where a descent on a batch starts, and for how many images one is tried."""

    std: float = 0.3
    """The standard deviation of the noise around the mean image that it starts from. Not measured against others: at
    the mean image itself tokens are short, and LayerNorm makes of them anything."""
    most_images: int = 8
    """Larger batches go to matching. Not measured above."""
    least_equations: float = 0.9
    """Numbers that the sum of errors has at a token, for each number of the B patches there, below which matching runs.

    `vit` has 2 of two images and 1 of four. A narrow transformer with 0.3 of two images had 1.6 dB more than grey.
    """


TOKEN_BATCH_LIMITS = TokenBatchLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True)
class TokenInversion(FallsBack):
    """One image's patches by least squares, a batch by the descent `batch`.

    `fallback` runs where neither applies, and the notes say why.
    """

    kind: Literal["tokens"] = "tokens"
    fallback: Matching = field(default_factory=Matching)
    batch: Continuation = field(
        default_factory=partial(Continuation, evaluations=600, stages=6, prior_start=1e-5, prior_end=1e-8),
        metadata=LATER,
    )

    def cost(self, images: int) -> float:
        """See `Attack.cost`; that it need not fall back is assumed: one pass to check the network, one for the loss."""
        return 1.0 if images == 1 else float(images * self.batch.evaluations)

    def shortened(self, share: float) -> Self:
        """See `Attack.shortened`."""
        return replace(super().shortened(share), batch=self.batch.shortened(share))

    def __call__(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Run the attack; see `attack_core.base.types.Attack`.

        The loss is the relative squared L2 distance between the observed gradient and that of the answer. Raises
        `InputError` for a signal that does not fit the model, and `AttackFailed` as `fallback` does.
        """
        check_observation(observation)
        try:
            if observation.examples == 1:
                return solve_tokens(solvable_tokens(observation, model), observation, model)
            problem, note = batch_tokens(observation, model)
        except InputError as reason:
            return self._matched_instead(reason, observation, model, generator, progress)
        return self.invert_batch(problem, note, observation, model, generator, progress)

    def invert_batch(
        self,
        problem: BatchTokens,
        note: str,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        progress: Progress | None,
        limits: TokenBatchLimits = TOKEN_BATCH_LIMITS,
    ) -> Reconstruction:
        """The answer to a batch of which `batch_tokens` gave `problem` and `note`."""
        seen, count = Evaluations(), observation.examples
        start = initial_images(
            "normal", (1, count, *observation.model.shape.size), std=limits.std, generator=generator
        )[0].to(problem.errors)
        if observation.public_mean is not None:
            start = start + observation.public_mean
        images = self.batch.minimise(
            problem.mismatch,
            start.clamp(-1.0, 1.0),
            measure=lambda images: PixelScale(problem.slopes(images, generator)),
            report=reporter(seen, self.batch.evaluations, progress, each=float(count)),
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


def solvable_tokens(observation: Observation, model: nn.Module) -> PatchEmbedding | SpanningLayer:
    """The network's patch embedding, or another layer, where this observation determines the patches of it.

    Raises `InputError` where the network has neither, and for several images, withheld numbers and signs.
    """
    if observation.examples > 1:
        raise InputError(f"the errors of the tokens of {observation.examples} images are known as a sum only")
    shape = observation.model.shape
    found: PatchEmbedding | SpanningLayer
    try:
        found = find_embedding(model, observation.state, shape)
        read = [found.weight, found.positions]
    except InputError as reason:
        try:
            found = find_spanning(model, observation.state, shape)
        except InputError as other:
            raise InputError(f"{str(reason).removesuffix('.')}; {other}") from other
        if observation.steps > 1 and found.moves(model, observation.state, shape):
            raise InputError(f"layers in front of {found.name!r} move from step to step") from reason
        read = [found.weight]
    for name in read:
        if withholds(observation, name):
            raise InputError(f"numbers of {name} were withheld")
    if sends_signs(observation) and not rounds_fairly(observation):
        raise InputError("signs of numbers tell nothing of their sizes")
    return found


def sends_nothing_down(observation: Observation, model: nn.Module) -> str | None:
    """Why no image can be read off a transformer's signal; None where its first layer has a gradient.

    A last layer of zeros, as torchvision starts transformers with, hands no error back to the layers in front.
    """
    if not any(not bool(value.any()) for value in observation.tensors.values()):
        return None
    try:
        embedding = find_embedding(model, observation.state, observation.model.shape)
    except InputError:
        return None
    if bool(observation.tensors[embedding.weight].any()):
        return None
    last = last_matrix(observation)
    return (
        f"the gradient of {embedding.weight} is 0: the last layer's weights are 0, as torchvision starts transformers, "
        "so it hands no error back to the layers that see the picture; train first, or give the head other weights"
        if last is None or not bool(observation.state.parameters[last].any())
        else f"the gradient of {embedding.weight} is 0: no error reaches the layers that see the picture"
    )


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
